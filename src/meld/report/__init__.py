"""What a run leaves behind for its reader: result files, tables on screen, the HTML report, comparisons of sweeps."""
