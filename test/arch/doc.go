// Package arch tests the architecture: which package may import what, what the CNI binaries may link, how packages and files are
// called and how large they grow. The rules are data in arch_test.go; a rule that has to change changes there, in
// sight of a reviewer.
package arch
