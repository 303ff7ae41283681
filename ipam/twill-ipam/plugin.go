package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/ipam/filestore"
)

// supported are the CNI versions in which a result can hold a list of addresses of either family.
var supported = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// plugin answers CNI calls. Errors are *types.Error with the codes of the CNI specification, version 1.1.
type plugin struct {
	stdout io.Writer // results
	stderr io.Writer // log; the runtime shows it when a call fails
}

// network is what the plugin needs of a network configuration beside the "ipam" object.
type network struct {
	types.PluginConf
	cfg   ipam.Config
	store *filestore.Allocator
}

// load reads the configuration with parse: ipam.ParseConfig, or ipam.ParseForRelease for the verbs that release.
func (p plugin) load(stdin []byte, parse func([]byte) (ipam.Config, error)) (*network, error) {
	n := &network{}
	if err := json.Unmarshal(stdin, &n.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration is not valid JSON", err.Error())
	}
	var err error
	if n.cfg, err = parse(stdin); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "network configuration is not valid", err.Error())
	}
	log := slog.New(slog.NewTextHandler(p.stderr, nil))
	if n.store, err = filestore.Open(n.cfg, n.Name, filestore.WithLogger(log)); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "cannot open the lease store", err.Error())
	}
	return n, nil
}

// loadOwned is load for the verbs that are about one interface, which it returns.
func (p plugin) loadOwned(args *skel.CmdArgs, parse func([]byte) (ipam.Config, error)) (*network, ipam.Owner, error) {
	n, err := p.load(args.StdinData, parse)
	if err != nil {
		return nil, ipam.Owner{}, err
	}
	who := ipam.Owner{ContainerID: args.ContainerID, IfName: args.IfName}
	if err := who.Validate(); err != nil {
		return nil, who, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID or CNI_IFNAME is not valid", err.Error())
	}
	return n, who, nil
}

func (p plugin) add(args *skel.CmdArgs) error {
	n, who, err := p.loadOwned(args, ipam.ParseConfig)
	if err != nil {
		return err
	}
	env, err := ipam.ParseArgs(args.Args)
	if err != nil {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS is not valid", err.Error())
	}
	dns, err := readDNS(n.cfg.ResolvConf) // before anything is allocated
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), filestore.LockWait)
	defer cancel()
	lease, err := n.store.Allocate(ctx, ipam.Request{
		Owner: who, Netns: args.Netns, IPs: append(env.IPs, n.cfg.IPs...), Pod: env.Pod,
	})
	if err != nil {
		return toCNI(err)
	}
	result, err := toResult(lease, n.cfg.Routes, dns).GetAsVersion(n.CNIVersion)
	if err == nil {
		err = result.PrintTo(p.stdout)
	}
	if err != nil {
		_, releaseErr := n.store.Release(ctx, who)
		return types.NewError(types.ErrIOFailure, "cannot print the result", errors.Join(err, releaseErr).Error())
	}
	return nil
}

func (p plugin) del(args *skel.CmdArgs) error {
	n, who, err := p.loadOwned(args, ipam.ParseForRelease)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), filestore.LockWait)
	defer cancel()
	_, err = n.store.Release(ctx, who)
	return toCNI(err)
}

// check verifies that the owner's lease exists, and that the previous result has every address of it.
func (p plugin) check(args *skel.CmdArgs) error {
	n, who, err := p.loadOwned(args, ipam.ParseConfig)
	if err != nil {
		return err
	}
	lease, err := n.store.Lookup(who)
	if err != nil {
		return toCNI(err)
	}
	if n.RawPrevResult == nil {
		return nil
	}
	prev, err := prevAddresses(n.RawPrevResult)
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "prevResult is not valid", err.Error())
	}
	for _, a := range lease.Addresses {
		if !prev[a.Prefix.Addr()] {
			return types.NewError(ipam.CodeMismatch, "the lease and prevResult disagree",
				fmt.Sprintf("%s is leased to %s and not in prevResult", a.Prefix, who))
		}
	}
	return nil
}

// gc releases what has no valid attachment. Without the key there is nothing to go by, and nothing is released.
func (p plugin) gc(args *skel.CmdArgs) error {
	n, err := p.load(args.StdinData, ipam.ParseForRelease)
	if err != nil {
		return err
	}
	if n.ValidAttachments == nil {
		return nil
	}
	valid := make([]ipam.Owner, len(n.ValidAttachments))
	for i, a := range n.ValidAttachments {
		valid[i] = ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName}
	}
	ctx, cancel := context.WithTimeout(context.Background(), filestore.LockWait)
	defer cancel()
	_, err = n.store.Retain(ctx, valid)
	return toCNI(err)
}

func (p plugin) status(args *skel.CmdArgs) error {
	n, err := p.load(args.StdinData, ipam.ParseConfig)
	if err != nil {
		return err
	}
	if err := n.store.Status(); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, "an ADD could not be served", err.Error())
	}
	return nil
}

func readDNS(path string) (ipam.DNS, error) {
	if path == "" {
		return ipam.DNS{}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return ipam.DNS{}, types.NewError(types.ErrIOFailure, "cannot read ipam.resolvConf", err.Error())
	}
	defer f.Close()
	dns, err := ipam.ParseResolvConf(f)
	if err != nil {
		return ipam.DNS{}, types.NewError(types.ErrIOFailure, "cannot read ipam.resolvConf", err.Error())
	}
	return dns, nil
}

// toCNI gives an error of the store its code.
func toCNI(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ipam.ErrBusy):
		return types.NewError(types.ErrTryAgainLater, "the lease store is locked", err.Error())
	case errors.Is(err, ipam.ErrExhausted):
		return types.NewError(ipam.CodeNoAddress, "no address is left", err.Error())
	case errors.Is(err, ipam.ErrUnavailable):
		return types.NewError(ipam.CodeNoAddress, "a requested address cannot be allocated", err.Error())
	case errors.Is(err, ipam.ErrNotFound):
		return types.NewError(ipam.CodeMismatch, "the container has no lease", err.Error())
	default:
		return types.NewError(types.ErrIOFailure, "the lease store failed", err.Error())
	}
}
