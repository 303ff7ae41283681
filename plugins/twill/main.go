//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/podnet"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/localipam"
	"github.com/twill-cni/twill/plugins/netconf"
	"github.com/twill-cni/twill/plugins/portmap"
	"github.com/twill-cni/twill/plugins/record"
)

// version is set by the linker.
var version = "dev"

func main() {
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status},
		cniversion.PluginSupports("0.4.0", "1.0.0", "1.1.0"), "CNI plugin twill "+version)
	if err == nil {
		return
	}
	if printErr := err.Print(); printErr != nil {
		fmt.Fprintln(os.Stderr, printErr)
	}
	os.Exit(1)
}

// session is what a verb works with.
type session struct {
	plugin  *attach.Plugin
	req     attach.Request
	handle  *podnet.Handle
	ports   *portmap.Ports
	ipamErr error // why there is no IPAM
}

// parsers read the network configuration and its part for address management.
type parsers struct {
	netconf func([]byte) (*netconf.Config, error)
	ipam    func([]byte) (ipam.Config, error)
}

// open parses what the runtime passes and opens what the plugin works on.
func open(args *skel.CmdArgs, parse parsers) (*session, error) {
	cfg, err := parse.netconf(args.StdinData)
	if err != nil {
		return nil, withCode(types.ErrInvalidNetworkConfig, err)
	}
	handle, err := podnet.Open()
	if err != nil {
		return nil, err
	}
	s := &session{handle: handle, ports: &portmap.Ports{}}
	s.req = attach.Request{Owner: kernel.PodOwner{ContainerID: args.ContainerID, IfName: args.IfName}, Netns: args.Netns, Config: cfg}
	s.plugin = &attach.Plugin{Kernel: handle, Records: record.Open(cfg.RunDir, cfg.Name), HostPorts: s.ports}
	if cfg.Policy != nil {
		s.plugin.Gate = gatekeeper{runDir: cfg.RunDir, table: *cfg.Policy}
	}
	s.plugin.IPAM, s.ipamErr = openIPAM(cfg, args, parse.ipam)
	return s, nil
}

func (s *session) close() {
	s.ports.Close()
	s.handle.Close()
}

// openStrict opens for the verbs that go by the configuration and by CNI_ARGS.
func openStrict(args *skel.CmdArgs) (*session, error) {
	s, err := open(args, parsers{netconf.Parse, ipam.ParseConfig})
	if err != nil {
		return nil, err
	}
	if s.req.Args, err = netconf.ParseArgs(args.Args); err != nil {
		err = withCode(types.ErrInvalidEnvironmentVariables, err)
	}
	if err = errors.Join(err, s.ipamErr); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// openForRemoval opens for the verbs that remove. They do what they can also with an IPAM configuration that cannot be used.
func openForRemoval(args *skel.CmdArgs) (*session, error) {
	s, err := open(args, parsers{netconf.ParseForRemoval, ipam.ParseForRelease})
	if err == nil && s.ipamErr != nil {
		s.plugin.IPAM = broken{s.ipamErr}
	}
	return s, err
}

func add(args *skel.CmdArgs) error {
	s, err := openStrict(args)
	if err != nil {
		return cniError(err)
	}
	defer s.close()
	if err := localipam.Owner(s.req.Owner).Validate(); err != nil {
		return cniError(withCode(types.ErrInvalidEnvironmentVariables, err))
	}
	ctx := context.Background()
	result, err := s.plugin.Add(ctx, s.req)
	if err != nil {
		return cniError(err)
	}
	out, err := json.Marshal(result)
	if err == nil {
		_, err = os.Stdout.Write(append(out, '\n'))
	}
	if err != nil { // the runtime will never know the pod's addresses
		return cniError(withCode(types.ErrIOFailure, errors.Join(fmt.Errorf("print result: %w", err), s.plugin.Del(ctx, s.req))))
	}
	return nil
}

func del(args *skel.CmdArgs) error {
	s, err := openForRemoval(args)
	if err != nil {
		return cniError(err)
	}
	defer s.close()
	return cniError(s.plugin.Del(context.Background(), s.req))
}

func check(args *skel.CmdArgs) error {
	s, err := openStrict(args)
	if err != nil {
		return cniError(err)
	}
	defer s.close()
	return cniError(s.plugin.Check(context.Background(), s.req))
}

func gc(args *skel.CmdArgs) error {
	s, err := openForRemoval(args)
	if err != nil {
		return cniError(err)
	}
	defer s.close()
	return cniError(s.plugin.GC(context.Background(), s.req.Config))
}

func status(args *skel.CmdArgs) error {
	s, err := openStrict(args)
	if err != nil {
		return cniError(err)
	}
	defer s.close()
	if err := s.plugin.Status(context.Background()); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	}
	return nil
}
