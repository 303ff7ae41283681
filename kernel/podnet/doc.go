// Package podnet is the kernel's side of attaching a pod. (Written out below.)
package podnet
