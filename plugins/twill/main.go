//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/podnet"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/netconf"
	"github.com/twill-cni/twill/plugins/record"
)

// version is set by the linker.
var version = "dev"

func main() {
	funcs := skel.CNIFuncs{Add: verb(netconf.Parse, add), Del: verb(netconf.ParseForRemoval, del), Check: verb(netconf.Parse, check),
		GC: verb(netconf.ParseForRemoval, gc), Status: verb(netconf.Parse, status)}
	err := skel.PluginMainFuncsWithError(funcs, cniversion.PluginSupports("0.4.0", "1.0.0", "1.1.0"), "CNI plugin twill "+version)
	if err == nil {
		return
	}
	if printErr := err.Print(); printErr != nil {
		fmt.Fprintln(os.Stderr, printErr)
	}
	os.Exit(1)
}

// verb makes a CNI callback: it parses what the runtime passes, opens what the plugin works on and turns the error into the
// specification's.
func verb(parse func([]byte) (*netconf.Config, error), do func(context.Context, *attach.Plugin, attach.Request) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		err := func() error {
			cfg, err := parse(args.StdinData)
			if err != nil {
				return withCode(types.ErrInvalidNetworkConfig, err)
			}
			req := attach.Request{Owner: kernel.PodOwner{ContainerID: args.ContainerID, IfName: args.IfName}, Netns: args.Netns, Config: cfg}
			if req.Args, err = netconf.ParseArgs(args.Args); err != nil && os.Getenv("CNI_COMMAND") != "DEL" {
				return withCode(types.ErrInvalidEnvironmentVariables, err)
			}
			handle, err := podnet.Open()
			if err != nil {
				return err
			}
			defer handle.Close()
			addresses, err := openIPAM(cfg)
			if err != nil {
				return err
			}
			ports := &hostPorts{}
			defer ports.close()
			p := &attach.Plugin{Kernel: handle, Records: record.Open(cfg.RunDir, cfg.Name), IPAM: addresses, HostPorts: ports}
			return do(context.Background(), p, req)
		}()
		return cniError(err)
	}
}

func add(ctx context.Context, p *attach.Plugin, req attach.Request) error {
	result, err := p.Add(ctx, req)
	if err != nil {
		return err
	}
	out, err := json.Marshal(result)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(out, '\n'))
	return err
}

func del(ctx context.Context, p *attach.Plugin, req attach.Request) error { return p.Del(ctx, req) }

func check(ctx context.Context, p *attach.Plugin, req attach.Request) error { return p.Check(ctx, req) }

func gc(ctx context.Context, p *attach.Plugin, req attach.Request) error {
	return p.GC(ctx, req.Config)
}

func status(ctx context.Context, p *attach.Plugin, _ attach.Request) error { return p.Status(ctx) }
