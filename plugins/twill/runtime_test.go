//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/twill-cni/twill/plugins/delegate"
)

// conflist is what twilld writes, but for the directories.
const conflist = `{"cniVersion":"1.0.0","cniVersions":["0.4.0","1.0.0","1.1.0"],"name":"net","plugins":[{"type":"twill","bridge":"cni0",
"mtu":1450,"runDir":"DIR/run","ipam":{"type":"twill-ipam","ranges":[[{"subnet":"10.5.1.0/24"}],[{"subnet":"fd00:5:1::/64"}]],
"dataDir":"DIR/ipam"},"capabilities":{"portMappings":true,"bandwidth":true,"ips":true,"mac":true,"dns":true}}]}`

// All verbs as a runtime calls them, with the library that runtimes use.
func TestThroughLibcni(t *testing.T) {
	n := newNode(t)
	list, err := libcni.NetworkConfFromBytes([]byte(strings.ReplaceAll(conflist, "DIR", n.dir)))
	if err != nil {
		t.Fatal(err)
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{binDir}, filepath.Join(n.dir, "cache"), nil)
	p := newNetns(t)
	rt := &libcni.RuntimeConf{ContainerID: "a", NetNS: p.path, IfName: "eth0", Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "x"}},
		CapabilityArgs: map[string]any{
			"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 7, "protocol": "tcp"}},
			"bandwidth":    map[string]any{"ingressRate": 1e8, "ingressBurst": 1<<32 - 1},
			"mac":          "02:00:00:00:00:77", "ips": []string{"10.5.1.77/24"},
			"dns": map[string]any{"servers": []string{"192.0.2.53"}}}}
	ctx := t.Context()
	n.do(func() error {
		if err := cni.GetStatusNetworkList(ctx, list); err != nil {
			return err
		}
		result, err := cni.AddNetworkList(ctx, list, rt)
		if err != nil {
			return err
		}
		got, err := types100.GetResult(result)
		if err != nil {
			return err
		}
		if got.IPs[0].Address.String() != "10.5.1.77/24" || got.Interfaces[2].Mac != "02:00:00:00:00:77" || got.Interfaces[2].Mtu != 1450 ||
			*got.IPs[1].Interface != 2 || got.DNS.Nameservers[0] != "192.0.2.53" || len(got.Routes) != 2 {
			t.Errorf("result is %+v", got)
		}
		if err := cni.CheckNetworkList(ctx, list, rt); err != nil {
			return err
		}
		if err := cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "a", IfName: "eth0"}}}); err != nil {
			return err
		}
		return errors.Join(cni.CheckNetworkList(ctx, list, rt), cni.DelNetworkList(ctx, list, rt), cni.DelNetworkList(ctx, list, rt))
	})
	n.wantNothingLeft()
}

func TestDelegatedIPAM(t *testing.T) {
	n := newNode(t)
	n.conf["cniVersion"] = "1.0.0"
	n.conf["ipam"] = map[string]any{"type": "host-local", "dataDir": n.dir + "/host-local", "ranges": [][]any{subnet4, subnet6}}
	leases := func() []string {
		files, err := filepath.Glob(n.dir + "/host-local/net/[0-9f]*")
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	a, b := n.add("a", nil), n.add("b", nil)
	b.echo(7)
	for _, ip := range b.result.IPs {
		if _, err := a.ask("tcp", netip.AddrPortFrom(ip.Address.Addr(), 7)); err != nil {
			t.Error(err)
		}
	}
	for _, p := range []pod{a, b} {
		n.must(call{verb: "CHECK", id: p.id, netns: p.path, keys: p.with(nil)})
		n.must(call{verb: "DEL", id: p.id})
	}
	n.wantNothingLeft()
	if left := leases(); len(left) > 0 {
		t.Errorf("host-local keeps %v", left)
	}

	t.Run("failure afterwards", func(t *testing.T) {
		_, err := n.run(call{verb: "ADD", id: "c", netns: newNetns(t).path, keys: map[string]any{"bridge": "lo"}})
		var printed *delegate.Error
		if !errors.As(err, &printed) || printed.Code != 7 {
			t.Errorf("have error %v, want code 7", err)
		}
		if left := leases(); len(left) > 0 {
			t.Errorf("host-local keeps %v", left)
		}
	})
	t.Run("failure of the plugin", func(t *testing.T) {
		_, err := n.run(call{verb: "ADD", id: "c", netns: newNetns(t).path, args: "IP=192.0.2.1"})
		if err == nil || !strings.Contains(err.Error(), "host-local") {
			t.Errorf("have error %v, want host-local's", err)
		}
		n.wantNothingLeft()
	})
	t.Run("CHECK without the lease", func(t *testing.T) {
		p := n.add("d", nil)
		if err := os.RemoveAll(n.dir + "/host-local"); err != nil {
			t.Fatal(err)
		}
		if _, err := n.run(call{verb: "CHECK", id: "d", netns: p.path, keys: p.with(nil)}); err == nil {
			t.Error("CHECK found nothing")
		}
		n.must(call{verb: "DEL", id: "d"})
	})
	t.Run("verbs of version 1.1.0", func(t *testing.T) {
		new11 := map[string]any{"cniVersion": "1.1.0"}
		n.must(call{verb: "STATUS", keys: new11})
		p := newNetns(t)
		n.must(call{verb: "ADD", id: "e", netns: p.path, keys: new11})
		n.must(call{verb: "GC", keys: map[string]any{"cniVersion": "1.1.0", "cni.dev/valid-attachments": []any{}}})
		n.wantNothingLeft()
		if left := leases(); len(left) > 0 {
			t.Errorf("host-local keeps %v", left)
		}
	})
}

// Each version gets the result that it knows.
func TestResultVersions(t *testing.T) {
	n := newNode(t, subnet4)
	for version, has := range map[string]struct{ ipVersion, mtu bool }{"0.4.0": {true, false}, "1.0.0": {false, false}, "1.1.0": {false, true}} {
		out := n.must(call{verb: "ADD", id: "a", netns: newNetns(t).path, keys: map[string]any{"cniVersion": version}})
		var got struct{ CNIVersion string }
		if err := json.Unmarshal([]byte(out), &got); err != nil || got.CNIVersion != version {
			t.Errorf("%s: result of version %q, error %v", version, got.CNIVersion, err)
		}
		if strings.Contains(out, `"version":"4"`) != has.ipVersion || strings.Contains(out, `"mtu"`) != has.mtu {
			t.Errorf("%s: %s", version, out)
		}
		n.must(call{verb: "DEL", id: "a", keys: map[string]any{"cniVersion": version}})
	}
}
