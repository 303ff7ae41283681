package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/twill-cni/twill/bgp"
)

// Paths implements bgp.Speaker. Paths come sorted by prefix, the best of each first.
func (s *Speaker) Paths(ctx context.Context, query bgp.PathQuery, visit func(bgp.Path)) error {
	s.apply.Lock()
	e := s.engine
	s.apply.Unlock()
	if e == nil {
		return nil
	}
	// What is used of e here never changes: server, families, AS and router ID.
	req := apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL}
	switch {
	case query.To.IsValid():
		req.TableType, req.Name, req.EnableFiltered = api.TableType_TABLE_TYPE_ADJ_OUT, query.To.String(), true
	case query.Peer.IsValid():
		req.TableType, req.Name = api.TableType_TABLE_TYPE_ADJ_IN, query.Peer.String()
	}
	if query.Prefix.IsValid() {
		req.Prefixes = []*apiutil.LookupPrefix{{Prefix: query.Prefix.String()}}
	}
	for _, family := range e.families {
		if query.Prefix.IsValid() && query.Prefix.Addr().Is4() != (family == packet.RF_IPv4_UC) {
			continue
		}
		req.Family = family
		found, err := e.list(req)
		if err != nil {
			return fmt.Errorf("list BGP paths: %w", err)
		}
		explain := e.explainer(req)
		for _, f := range found {
			for i, p := range f.paths {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				out := pathFrom(f.prefix, p)
				out.Best = req.TableType == api.TableType_TABLE_TYPE_GLOBAL && p.Best
				out.Rejected = explain(f.prefix, p, i)
				visit(out)
			}
		}
	}
	return nil
}

type destination struct {
	prefix netip.Prefix
	paths  []*apiutil.Path
}

func (e *engine) list(req apiutil.ListPathRequest) ([]destination, error) {
	var found []destination
	err := e.server.ListPath(req, func(nlri packet.NLRI, paths []*apiutil.Path) {
		if prefix, ok := prefixOf(nlri); ok {
			found = append(found, destination{prefix, paths})
		}
	})
	slices.SortFunc(found, func(a, b destination) int { return a.prefix.Compare(b.prefix) })
	return found, err
}

// explainer returns a function that says why a path of the table in req is not used.
func (e *engine) explainer(req apiutil.ListPathRequest) func(netip.Prefix, *apiutil.Path, int) string {
	if req.TableType == api.TableType_TABLE_TYPE_ADJ_OUT {
		return func(_ netip.Prefix, p *apiutil.Path, _ int) string {
			if p.Filtered {
				return "an export rule rejects it"
			}
			return ""
		}
	}
	chosen := make(map[netip.Prefix][]*apiutil.Path)
	if req.TableType == api.TableType_TABLE_TYPE_ADJ_IN {
		neighbour, _ := netip.ParseAddr(req.Name)
		table := req
		table.TableType, table.Name = api.TableType_TABLE_TYPE_GLOBAL, ""
		found, err := e.list(table)
		if err != nil {
			return func(netip.Prefix, *apiutil.Path, int) string { return "" }
		}
		for _, f := range found {
			chosen[f.prefix] = f.paths
		}
		return func(prefix netip.Prefix, p *apiutil.Path, _ int) string {
			return e.whyNot(p, neighbour, chosen[prefix])
		}
	}
	return func(_ netip.Prefix, p *apiutil.Path, i int) string {
		if i > 0 && !p.Best {
			return "another path is better"
		}
		return ""
	}
}

// whyNot says why a path that a neighbour announced is not used, where chosen is what the table holds for its prefix.
func (e *engine) whyNot(p *apiutil.Path, neighbour netip.Addr, chosen []*apiutil.Path) string {
	for _, c := range chosen {
		if c.PeerAddress == neighbour {
			if c.Best {
				return ""
			}
			return "another path is better"
		}
	}
	described := pathFrom(netip.Prefix{}, p)
	switch {
	case slices.Contains(described.ASPath, e.as):
		return "its AS path contains this node's AS"
	case described.Originator == e.routerID && described.Originator.IsValid():
		return "this node is its originator"
	}
	return "an import rule rejects it"
}

// pathFrom translates a path.
func pathFrom(prefix netip.Prefix, p *apiutil.Path) bgp.Path {
	out := bgp.Path{Prefix: prefix, From: p.PeerAddress, NextHop: nextHopOf(p.Attrs), Stale: p.Stale, Age: time.Since(time.Unix(p.Age, 0)).Truncate(time.Second)}
	for _, a := range p.Attrs {
		switch a := a.(type) {
		case *packet.PathAttributeOrigin:
			out.Origin = originNames[a.Value]
		case *packet.PathAttributeAsPath:
			for _, segment := range a.Value {
				out.ASPath = append(out.ASPath, segment.GetAS()...)
			}
		case *packet.PathAttributeLocalPref:
			out.LocalPref = a.Value
		case *packet.PathAttributeMultiExitDisc:
			out.MED = a.Value
		case *packet.PathAttributeCommunities:
			for _, c := range a.Value {
				out.Communities = append(out.Communities, bgp.Community(c))
			}
		case *packet.PathAttributeLargeCommunities:
			for _, c := range a.Values {
				out.LargeCommunities = append(out.LargeCommunities, bgp.LargeCommunity{Global: c.ASN, Local1: c.LocalData1, Local2: c.LocalData2})
			}
		case *packet.PathAttributeOriginatorId:
			out.Originator = a.Value
		case *packet.PathAttributeClusterList:
			out.ClusterList = append(out.ClusterList, a.Value...)
		}
	}
	return out
}

var originNames = map[uint8]string{
	packet.BGP_ORIGIN_ATTR_TYPE_IGP:        "IGP",
	packet.BGP_ORIGIN_ATTR_TYPE_EGP:        "EGP",
	packet.BGP_ORIGIN_ATTR_TYPE_INCOMPLETE: "incomplete",
}
