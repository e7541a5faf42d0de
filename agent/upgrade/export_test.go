package upgrade

// WriteImage is for tests that read the image with package firmware, which imports this one.
var WriteImage = writeImage
