package sandbox

// Main takes over when this process is a cell's helper. See cell.go.
func Main() {}
