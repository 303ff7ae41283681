// Package page tests the daemon's web page as people see it: in headless Chromium, of a lab of three nodes that run the built binaries.
package page
