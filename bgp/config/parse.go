package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/twill-cni/twill/bgp"
)

// MaxSize is the size in bytes above which Parse refuses a document.
const MaxSize = 1 << 20

// Parse reads the file of --bgp-config. Keys that are unknown or given twice are errors. The error joins all that is wrong; each says
// which key, such as peers[1].ttlSecurity, what it has and what it should have.
func Parse(data []byte) (*Config, error) {
	v, err := document(data)
	if err != nil {
		return nil, fmt.Errorf("BGP configuration: %w", err)
	}
	c := Default()
	c.read(v)
	c.check(v.p)
	if err := v.p.err(); err != nil {
		return nil, fmt.Errorf("BGP configuration: %w", err)
	}
	return c, nil
}

// ParseNode reads what a node's record in the store says of BGP: an object with the keys of an element of nodes, without match. An empty one
// says nothing.
func ParseNode(data json.RawMessage) (NodeSettings, error) {
	var s NodeSettings
	if len(data) == 0 {
		return s, nil
	}
	v, err := document(data)
	if err != nil {
		return s, fmt.Errorf("BGP settings of the node: %w", err)
	}
	v.object(s.fields()...)
	if err := v.p.err(); err != nil {
		return NodeSettings{}, fmt.Errorf("BGP settings of the node: %w", err)
	}
	return s, nil
}

// document takes YAML, of which JSON is a part, into generic values.
func document(data []byte) (value, error) {
	if len(data) > MaxSize {
		return value{}, fmt.Errorf("%d bytes are more than the %d that are allowed", len(data), MaxSize)
	}
	// The JSON is bounded too: YAML's aliases can make much of little.
	raw, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return value{}, err
	}
	if len(raw) > 4*MaxSize {
		return value{}, fmt.Errorf("%d bytes, after its aliases were followed, are more than the %d that are allowed", len(raw), 4*MaxSize)
	}
	v := value{p: &problems{}}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(&v.v); err != nil && !errors.Is(err, io.EOF) {
		return value{}, err
	}
	return v, nil
}

func (c *Config) read(v value) {
	var mesh, overlay = c.Mesh, c.Overlay
	// What the others inherit from comes first.
	fields := slices.Concat(c.Session.fields(), []field{
		{"as", asn(&c.AS)},
		{"routerID", routerID(&c.RouterID)},
		{"port", number(&c.Port, 1, 65535)},
		{"mesh", word(&mesh, MeshAuto, MeshOn, MeshOff)},
		{"overlay", word(&overlay, OverlayNever, OverlayCrossSubnet, OverlayAlways)},
		{"accept", listOf(&c.Accept, prefixMatch)},
		{"passwordFile", file(&c.PasswordFile)},
		{"nodes", listOf(&c.Nodes, nodeRule)},
		{"peers", listOf(&c.Peers, func(p *Peer) func(value) { return peer(p, c.Session) })},
		{"announce", listOf(&c.Announce, announcement)},
		{"services", serviceAddresses(&c.Services)},
		{"podSubnets", attributes(&c.PodSubnets)},
		{"aggregate", listOf(&c.Aggregates, aggregate)},
	})
	v.object(fields...)
	c.Mesh, c.Overlay = mesh, overlay
}

// check looks at what concerns several elements.
func (c *Config) check(p *problems) {
	names := map[string]int{}
	for i, peer := range c.Peers {
		if first, twice := names[peer.Name]; twice && peer.Name != "" {
			at := value{path: fmt.Sprintf("peers[%d].name", i), p: p}
			at.fail("have %q, which is the name of peers[%d]; want another", peer.Name, first)
			continue
		}
		names[peer.Name] = i
	}
}

func (s *Session) fields() []field {
	return []field{{"timers", timers(&s.Timers)}, {"gracefulRestart", graceful(&s.Graceful)}, {"bfd", bfd(&s.BFD)}}
}

// timers reads a session's intervals. A keepalive that is not given is a third of the hold time.
func timers(to *bgp.Timers) func(value) {
	return func(v value) {
		t := *to
		has := v.object(
			field{"hold", duration(&t.Hold, time.Second, 0, 65535*time.Second)},
			field{"keepalive", duration(&t.Keepalive, time.Second, 0, 21845*time.Second)},
			field{"connectRetry", duration(&t.ConnectRetry, time.Second, time.Second, 65535*time.Second)},
		)
		if has["hold"] && !has["keepalive"] {
			t.Keepalive = (t.Hold / 3).Truncate(time.Second)
		}
		switch {
		case t.Hold > 0 && t.Hold < 3*time.Second:
			v.at("hold", t.Hold).want(`"0s", which ends no session, or at least "3s" (RFC 4271, section 4.2)`)
		case t.Hold > 0 && t.Keepalive == 0 || t.Keepalive > t.Hold/3:
			v.at("keepalive", t.Keepalive).want(fmt.Sprintf("at most a third of hold, which is %s, and not 0 unless hold is", t.Hold))
		}
		*to = t
	}
}

func graceful(to **bgp.GracefulRestart) func(value) {
	return func(v value) {
		enabled, g := true, *Default().Graceful
		if *to != nil {
			g = **to
		}
		v.object(
			field{"enabled", boolean(&enabled)},
			field{"restartTime", duration(&g.RestartTime, time.Second, time.Second, 4095*time.Second)},
			field{"staleTime", duration(&g.StaleTime, time.Second, time.Second, time.Hour)},
		)
		*to = nil
		if enabled {
			*to = &g
		}
	}
}

func bfd(to **bgp.BFD) func(value) {
	return func(v value) {
		enabled, b := true, defaultBFD
		if *to != nil {
			b = **to
		}
		v.object(
			field{"enabled", boolean(&enabled)},
			field{"transmit", duration(&b.Transmit, time.Millisecond, 10*time.Millisecond, time.Minute)},
			field{"receive", duration(&b.Receive, time.Millisecond, 10*time.Millisecond, time.Minute)},
			field{"multiplier", number(&b.Multiplier, 1, 255)},
		)
		*to = nil
		if enabled {
			*to = &b
		}
	}
}

// selector reads which nodes are meant. A list or object without an element is no way to say all.
func selector(to *bgp.Selector) func(value) {
	return func(v value) {
		has := v.object(
			field{"names", listOf(&to.Names, nodeName)},
			field{"labels", labels(&to.Labels)},
		)
		if has["names"] && len(to.Names) == 0 {
			v.at("names", []any{}).fail("the list is empty; want a node's name in it, or no list for all nodes")
		}
		if has["labels"] && len(to.Labels) == 0 {
			v.at("labels", nil).fail("the object is empty; want a label in it, or no object for all nodes")
		}
	}
}

func nodeName(to *string) func(value) {
	return text(to, "a node's name", func(s string) bool { return s != "" && len(s) <= 253 })
}

func labels(to *map[string]string) func(value) {
	return func(v value) {
		all, ok := v.v.(map[string]any)
		if !ok {
			v.want("an object of labels and their values")
			return
		}
		*to = map[string]string{}
		for key, inner := range all {
			s, ok := inner.(string)
			if !ok {
				v.at(clip(key), inner).want("a text; numbers and truth values need quotation marks")
				continue
			}
			(*to)[key] = s
		}
	}
}

func nodeRule(to *NodeRule) func(value) {
	return func(v value) {
		if has := v.object(append(to.NodeSettings.fields(), field{"match", selector(&to.Match)})...); !has["match"] {
			v.at("match", nil).want("names or labels of nodes; {} matches all")
		}
	}
}

func (s *NodeSettings) fields() []field {
	return []field{
		{"as", asn(&s.AS)},
		{"routerID", routerID(&s.RouterID)},
		{"port", number(&s.Port, 1, 65535)},
		{"nextHopSelf", pointer(&s.NextHopSelf, boolean)},
		{"reflector", pointer(&s.Reflector, reflector)},
		{"podSubnets", pointer(&s.PodSubnets, attributes)},
	}
}

func reflector(to *Reflector) func(value) {
	return func(v value) {
		to.Enabled = true
		v.object(
			field{"enabled", boolean(&to.Enabled)},
			field{"clusterID", routerID(&to.ClusterID)},
			field{"serves", selector(&to.Serves)},
		)
	}
}

var nameSyntax = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func peerName(to *string) func(value) {
	return text(to, "a name of at most 63 letters, digits, dots, dashes and underscores", nameSyntax.MatchString)
}

func file(to *string) func(value) {
	return text(to, "the absolute path of a file", func(s string) bool { return path.IsAbs(s) && path.Clean(s) == s })
}

func announcement(to *Announcement) func(value) {
	return func(v value) {
		has := v.object(append(to.Attributes.fields(), field{"prefix", prefix(&to.Prefix)}, field{"nodes", selector(&to.Nodes)})...)
		v.need(has, "prefix", "the prefix to announce")
	}
}

func aggregate(to *Aggregate) func(value) {
	return func(v value) {
		const external, nodes, all = "external", "nodes", "all"
		goes := external
		has := v.object(append(to.Attributes.fields(),
			field{"prefix", prefix(&to.Prefix)},
			field{"nodes", selector(&to.Nodes)},
			field{"summaryOnly", boolean(&to.SummaryOnly)},
			field{"to", word(&goes, external, nodes, all)},
		)...)
		to.ToExternal, to.ToNodes = goes != nodes, goes != external
		v.need(has, "prefix", "the prefix that stands for more specific ones")
		if to.Prefix.IsValid() && to.Prefix.Bits() == to.Prefix.Addr().BitLen() {
			v.at("prefix", to.Prefix.String()).want("a prefix that has more specific ones")
		}
		if to.SummaryOnly && to.ToNodes {
			v.at("summaryOnly", true).want("false, or to: external: nodes need each other's subnets")
		}
	}
}

// need reports that a key is missing.
func (v value) need(has map[string]bool, key, what string) {
	if all, ok := v.v.(map[string]any); ok && !has[key] {
		v.at(key, all[key]).want(what)
	}
}

// sameFamily reports whether a and b are both IPv4 or both IPv6.
func sameFamily(a, b netip.Addr) bool { return a.Is4() == b.Is4() }
