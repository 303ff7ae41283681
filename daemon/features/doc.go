// Package features owns what Twill needs of a kernel that a kernel can be without, and the words for its lack.
//
//	configuration ─► Needs ─► Check ─► kernel (dry runs: nothing is made)
//	                            └──► "this host's kernel lacks VXLAN devices: run `modprobe vxlan` on the host ..."
//
// The daemon asks once, before it touches anything. Found out at the time of use, a lack would show as a bare EOPNOTSUPP or ENOENT, with half of the
// node programmed. Each dry run makes the kernel load the module that it has for it.
//
// The kernel of Debian's package user-mode-linux is one to try it on: it has nf_tables, but none of the families inet, ip and ip6.
package features
