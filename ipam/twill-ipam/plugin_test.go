package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
)

// rig is a built plugin with a data directory of its own on tmpfs.
type rig struct {
	bin, dir string
}

func newRig(t testing.TB) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "twill-ipam-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &rig{bin: filepath.Join(t.TempDir(), "twill-ipam"), dir: dir}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", r.bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return r
}

// request is one CNI call.
type request struct {
	command, id, args string
	version           string // of the configuration; 1.1.0 unless set
	ipam              string // keys of the "ipam" object beside type and dataDir
	more              string // keys of the configuration beside it
}

func (r *rig) cmd(q request) *exec.Cmd {
	if q.version == "" {
		q.version = "1.1.0"
	}
	conf := fmt.Sprintf(`{"cniVersion":%q,"name":"net","type":"x","ipam":{"type":"twill-ipam","dataDir":%q%s}%s}`, q.version, r.dir, q.ipam, q.more)
	cmd := exec.Command(r.bin)
	cmd.Stdin = strings.NewReader(conf)
	cmd.Env = []string{"CNI_COMMAND=" + q.command, "CNI_CONTAINERID=" + q.id, "CNI_IFNAME=eth0", "CNI_NETNS=/run/netns/none", "CNI_PATH=/none",
		"CNI_ARGS=" + q.args, "CNI_NETNS_OVERRIDE=true"}
	return cmd
}

// run makes the call. A failed one returns the plugin's error as *types.Error.
func (r *rig) run(t testing.TB, q request) (string, error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := r.cmd(q)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		cniErr := &types.Error{}
		if json.Unmarshal(stdout.Bytes(), cniErr) != nil {
			t.Fatalf("%+v: exit %v without a CNI error: %s %s", q, err, &stdout, &stderr)
		}
		return "", cniErr
	}
	if err != nil {
		t.Fatal(err)
	}
	return stdout.String(), nil
}

func code(err error) uint {
	var cniErr *types.Error
	if errors.As(err, &cniErr) {
		return cniErr.Code
	}
	return 0
}

const small = `,"ranges":[[{"subnet":"10.0.0.0/30"}]]` // one address beside the gateway

func TestVerbs(t *testing.T) {
	r := newRig(t)
	steps := []struct {
		name string
		req  request
		code uint   // 0: success
		want string // part of the output or of the error
	}{
		{"status of an empty store", request{command: "STATUS", ipam: small}, 0, ""},
		{"check without a lease", request{command: "CHECK", id: "a", ipam: small, more: `,"prevResult":{"cniVersion":"1.1.0"}`}, 104, "no lease"},
		{"del without a lease", request{command: "DEL", id: "a", ipam: small}, 0, ""},
		{"add", request{command: "ADD", id: "a", ipam: small}, 0, "10.0.0.2/30"},
		{"add again", request{command: "ADD", id: "a", ipam: small}, 0, "10.0.0.2/30"},
		{"check", request{command: "CHECK", id: "a", ipam: small, more: `,"prevResult":{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/30"}]}`}, 0, ""},
		{"check against another result", request{command: "CHECK", id: "a", ipam: small, more: `,"prevResult":{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.9/30"}]}`},
			104, "10.0.0.2/30 is leased to a/eth0 and not in prevResult"},
		{"status when exhausted", request{command: "STATUS", ipam: small}, 50, "range 10.0.0.1-10.0.0.2 of subnet 10.0.0.0/30 has 1 of 1 addresses leased"},
		{"add when exhausted", request{command: "ADD", id: "b", ipam: small}, 103, "1 of 1 addresses leased"},
		{"gc without the key", request{command: "GC", ipam: small}, 0, ""},
		{"gc that keeps", request{command: "GC", ipam: small, more: `,"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]`}, 0, ""},
		{"kept", request{command: "STATUS", ipam: small}, 50, ""},
		{"gc that keeps nothing", request{command: "GC", ipam: small, more: `,"cni.dev/valid-attachments":[]`}, 0, ""},
		{"released", request{command: "STATUS", ipam: small}, 0, ""},
		{"requested address outside", request{command: "ADD", id: "b", args: "IP=10.0.0.9", ipam: small}, 103, "10.0.0.9"},
		{"requested address", request{command: "ADD", id: "b", args: "IP=10.0.0.2", ipam: small}, 0, "10.0.0.2/30"},
		{"del", request{command: "DEL", id: "b", ipam: small}, 0, ""},
		{"del again", request{command: "DEL", id: "b", ipam: small}, 0, ""},
		{"add before the configuration breaks", request{command: "ADD", id: "b", ipam: small}, 0, "10.0.0.2/30"},
		{"del with a broken configuration", request{command: "DEL", id: "b", ipam: `,"ranges":"x"`}, 0, ""},
		{"which released", request{command: "ADD", id: "b", ipam: small}, 0, "10.0.0.2/30"},
		{"gc with a broken configuration", request{command: "GC", ipam: `,"ranges":"x"`, more: `,"cni.dev/valid-attachments":[]`}, 0, ""},
		{"unknown key", request{command: "ADD", id: "b", ipam: small + `,"rangs":1`}, 7, "rangs"},
		{"status with a bad configuration", request{command: "STATUS", ipam: `,"subnet":"x"`}, 7, "ipam.subnet"},
		{"bad CNI_ARGS", request{command: "ADD", id: "b", args: "IP=x", ipam: small}, 4, "IP"},
		{"resolv.conf that is not there", request{command: "ADD", id: "b", ipam: small + `,"resolvConf":"/nonexistent"`}, 5, "/nonexistent"},
		{"nothing allocated by the failed adds", request{command: "ADD", id: "c", ipam: small}, 0, "10.0.0.2/30"},
		{"unsupported version", request{command: "ADD", id: "d", ipam: small, version: "0.2.0"}, 1, ""},
	}
	for _, s := range steps {
		out, err := r.run(t, s.req)
		if code(err) != s.code {
			t.Errorf("%s: error %v (code %d), want code %d", s.name, err, code(err), s.code)
			continue
		}
		if err != nil {
			out = err.Error()
		}
		if !strings.Contains(out, s.want) {
			t.Errorf("%s: %q does not contain %q", s.name, out, s.want)
		}
	}
}

func TestResult(t *testing.T) {
	r := newRig(t)
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 10.9.9.9\nsearch a b\ndomain c\noptions ndots:5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := `,"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"fd00::/64"}]],"resolvConf":"` + resolv +
		`","routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0","gw":"fd00::9","mtu":1400,"advmss":1300,"priority":7,"table":5,"scope":253}]`
	for _, version := range supported {
		t.Run(version, func(t *testing.T) {
			id := "v" + strings.ReplaceAll(version, ".", "-")
			out, err := r.run(t, request{command: "ADD", id: id, ipam: keys, version: version})
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				CNIVersion string
				IPs        []struct{ Address, Gateway string }
				Routes     []map[string]any
				DNS        types.DNS
			}
			if err := json.Unmarshal([]byte(out), &got); err != nil {
				t.Fatal(err)
			}
			if got.CNIVersion != version || len(got.IPs) != 2 || got.IPs[0].Gateway != "10.0.0.1" || got.IPs[1].Gateway != "fd00::1" {
				t.Errorf("result %s", out)
			}
			wantDNS := types.DNS{Nameservers: []string{"10.9.9.9"}, Domain: "c", Search: []string{"a", "b"}, Options: []string{"ndots:5"}}
			if diff := cmp.Diff(wantDNS, got.DNS); diff != "" {
				t.Errorf("dns, -want +got:\n%s", diff)
			}
			if len(got.Routes) != 2 || got.Routes[1]["gw"] != "fd00::9" {
				t.Errorf("routes %v", got.Routes)
			}
			if version == "1.1.0" && (got.Routes[1]["mtu"] != 1400.0 || got.Routes[1]["table"] != 5.0 || got.Routes[1]["scope"] != 253.0) {
				t.Errorf("routes %v", got.Routes)
			}
		})
	}
}

// TestParallel starts as many processes as a node has pods, all at once.
func TestParallel(t *testing.T) {
	const pods = 250
	r := newRig(t)
	keys := `,"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"fd00::/64"}]]`
	all := func(command string) map[string]string {
		var mu sync.Mutex
		var wg sync.WaitGroup
		outs := map[string]string{}
		start := time.Now()
		for i := range pods {
			id := fmt.Sprint("c", i)
			wg.Go(func() {
				out, err := r.run(t, request{command: command, id: id, ipam: keys})
				if err != nil {
					t.Errorf("%s %s: %v", command, id, err)
				}
				mu.Lock()
				defer mu.Unlock()
				outs[id] = out
			})
		}
		wg.Wait()
		t.Logf("%d processes of %s took %s", pods, command, time.Since(start))
		return outs
	}
	owners := map[string]string{}
	for id, out := range all("ADD") {
		var res current.Result
		if err := json.Unmarshal([]byte(out), &res); err != nil || len(res.IPs) != 2 {
			t.Fatalf("%s: %s: %v", id, out, err)
		}
		for _, ip := range res.IPs {
			key := ip.Address.String()
			if other, taken := owners[key]; taken {
				t.Errorf("%s is %s's and %s's", key, other, id)
			}
			owners[key] = id
		}
	}
	all("DEL")
	for _, dir := range []string{"leases", "addresses"} {
		left, err := os.ReadDir(filepath.Join(r.dir, "net", dir))
		if err != nil || len(left) != 0 {
			t.Errorf("%d entries are left in %s: %v", len(left), dir, err)
		}
	}
}

// BenchmarkProcess measures one ADD and one DEL, each with the start of a process.
func BenchmarkProcess(b *testing.B) {
	r := newRig(b)
	for b.Loop() {
		for _, command := range []string{"ADD", "DEL"} {
			if _, err := r.run(b, request{command: command, id: "a", ipam: `,"subnet":"10.0.0.0/24"`}); err != nil {
				b.Fatal(err)
			}
		}
	}
}
