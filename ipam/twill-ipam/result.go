package main

import (
	"encoding/json"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/twill-cni/twill/ipam"
)

// toResult is the result of an IPAM plugin: addresses without interfaces.
func toResult(lease ipam.Lease, routes []ipam.Route, dns ipam.DNS) *current.Result {
	r := &current.Result{CNIVersion: current.ImplementedSpecVersion, DNS: types.DNS(dns)}
	for _, a := range lease.Addresses {
		ip := &current.IPConfig{Address: ipNet(a.Prefix)}
		if a.Gateway.IsValid() {
			ip.Gateway = a.Gateway.AsSlice()
		}
		r.IPs = append(r.IPs, ip)
	}
	for _, in := range routes {
		out := &types.Route{
			Dst: ipNet(in.Dst), MTU: in.MTU, AdvMSS: in.AdvMSS, Priority: in.Priority, Table: in.Table, Scope: in.Scope,
		}
		if in.GW.IsValid() {
			out.GW = in.GW.AsSlice()
		}
		r.Routes = append(r.Routes, out)
	}
	return r
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prevAddresses returns the addresses of a result of any version from 0.3.0 on; they all keep them in ips[].address.
func prevAddresses(prev map[string]any) (map[netip.Addr]bool, error) {
	data, err := json.Marshal(prev)
	if err != nil {
		return nil, err
	}
	var result struct {
		IPs []struct {
			Address netip.Prefix `json:"address"`
		} `json:"ips"`
	}
	if err := json.Unmarshal(data, &result); err != nil {
		return nil, err
	}
	found := map[netip.Addr]bool{}
	for _, ip := range result.IPs {
		found[ip.Address.Addr().Unmap()] = true
	}
	return found, nil
}
