//go:build !failpoint

// Package failpoint lets tests kill a program at a named step, as a power cut or kill -9 would. Without the build tag
// "failpoint", which only tests set, Hit is empty and is compiled away.
package failpoint

// Hit marks a step. In a build with the tag "failpoint" the process kills itself with SIGKILL when the environment variable
// TWILL_FAILPOINT is equal to name.
func Hit(name string) {}
