package main

import (
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"
)

func main() {
	p := plugin{stdout: os.Stdout, stderr: os.Stderr}
	funcs := skel.CNIFuncs{Add: p.add, Del: p.del, Check: p.check, GC: p.gc, Status: p.status}
	skel.PluginMainFuncs(funcs, version.PluginSupports(supported...), "twill-ipam: host-local address management")
}
