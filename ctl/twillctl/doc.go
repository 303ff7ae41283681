// Command twillctl is the operator's tool. There is one file for each command; what a command does lives in the packages below ctl/,
// and a command only reads flags, calls them and prints.
//
//	main -> run(ctx, args) -> root -> lab -> up, down, exec, pods, matrix, status
package main
