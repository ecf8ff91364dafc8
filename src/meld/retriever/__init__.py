"""What the encoder finds: demonstrations, partners across tables, suspicious cells, candidate values."""
