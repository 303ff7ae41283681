package e2e

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/sysdump"
)

// planted stands for each secret.
const planted = "PLANTED-7f3a"

// unpack returns the files of an archive.
func unpack(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	raw, err := gzip.NewReader(f)
	must(t, err)
	files := map[string]string{}
	for r := tar.NewReader(raw); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		must(t, err)
		text, err := io.ReadAll(r)
		must(t, err)
		files[h.Name] = string(text)
	}
}

// dumpOf runs twillctl sysdump, and checks that the manifest tells of each file, and that no file holds what was planted.
func dumpOf(t *testing.T, l *lab.Lab) (map[string]string, sysdump.Manifest) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "d.tar.gz")
	o := twillctl(t, "sysdump", path, "--lab", l.Name())
	if o.code != 0 || !strings.Contains(o.stderr, path) {
		t.Fatalf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if strings.Contains(o.stdout+o.stderr, planted) {
		t.Errorf("a secret is printed:\n%s%s", o.stdout, o.stderr)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	files := unpack(t, path)
	for name, text := range files {
		if at := strings.Index(text, planted); at >= 0 {
			t.Errorf("%s holds a secret: ...%s...", name, text[max(0, at-100):min(len(text), at+100)])
		}
	}
	var index sysdump.Manifest
	must(t, json.Unmarshal([]byte(files[sysdump.Index]), &index))
	told := []string{sysdump.Index}
	for _, e := range index.Files {
		if e.Error == "" {
			told = append(told, e.Name)
		}
	}
	slices.Sort(told)
	if have := slices.Sorted(maps.Keys(files)); !slices.Equal(have, told) {
		t.Errorf("the archive has %v, the manifest tells of %v", have, told)
	}
	return files, index
}

// An archive has what it should, and none of the secrets that are in all places that can hold one; also when a daemon is dead.
func TestTwillctlSysdump(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{Nodes: 2, PodsPerNode: 1, Proxy: "nftables",
		DaemonArgs: []string{"--policy=on", "--etcd-username=root", "--etcd-password=" + planted, "--log-level=debug"}})
	second := l.Nodes()[1]
	for _, n := range l.Nodes() {
		password := filepath.Join(n.CNIConfDir(), "..", "password")
		must(t, os.WriteFile(password, []byte(planted+"\n"), 0o600))
		must(t, os.WriteFile(filepath.Join(n.CNIConfDir(), "20-calico.conflist"),
			[]byte(`{"name":"other","plugins":[{"type":"calico","etcd_endpoints":"https://root:`+planted+`@192.0.2.1:2379","policy":{"k8s_auth_token":"`+planted+`"}}]}`), 0o600))
		must(t, os.WriteFile(filepath.Join(n.CNIConfDir(), "30-broken.conf"), []byte(`{"token": "`+planted), 0o600))
		must(t, n.SetBGPConfig([]byte("as: 64512\npasswordFile: "+password+" # "+planted+"\npeers:\n- address: 192.0.2.77\n  as: 65001\n  password: "+planted+"\n")))
	}
	// The speaker refuses the file for its unknown key, and says so: the log has to have it before it is looked at.
	within(t, enough, func() error {
		files, _ := dumpOf(t, l)
		if !strings.Contains(files["nodes/node1/log.txt"], "peers[0].password") {
			return fmt.Errorf("the log does not tell of the configuration:\n%s", files["nodes/node1/log.txt"])
		}
		return nil
	})
	files, index := dumpOf(t, l)
	for _, e := range index.Failed() {
		t.Errorf("%s was not taken: %s", e.Name, e.Error)
	}
	for name, want := range map[string]string{
		"versions.txt": "node2 twilld", "status.txt": "node2", "status.json": `"findings"`, "nodes.json": `"node2"`, "ipam-check.json": "[",
		"nodes/node1/settings.json": `"(hidden)"`, "nodes/node1/metrics.txt": "twill_peers ", "nodes/node1/files.txt": "k8s_auth_token: (hidden)",
		"nodes/node2/files.txt": "password: (hidden)", "nodes/node1/addresses.json": "10.244.", "nodes/node1/pods.json": "default/",
		"nodes/node1/bgp/sessions.json": `"state"`, "nodes/node1/services.json": "{", "nodes/node1/policies/pods.json": "default",
		"nodes/node1/kernel/links.txt": "cni0", "nodes/node1/kernel/routes.txt": "proto 84", "nodes/node1/kernel/nftables.txt": "table inet twill-policy {",
		"nodes/node1/kernel/kernel.json": `"net/ipv4/ip_forward": "1"`, "nodes/node1/kernel/addresses.txt": "dev cni0", "nodes/node1/kernel/fdb.txt": "dev cni0",
		"nodes/node1/check.json": "forwarding",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("no %q in %s:\n%.2000s", want, name, files[name])
		}
	}
	if !strings.Contains(files["nodes/node1/files.txt"], "https://(hidden)@192.0.2.1:2379") || !strings.Contains(files["nodes/node1/files.txt"], "30-broken.conf <==\n# not shown") {
		t.Error(files["nodes/node1/files.txt"])
	}

	must(t, second.KillDaemon(t.Context()))
	files, index = dumpOf(t, l)
	if len(index.Failed()) == 0 || !strings.Contains(files["nodes/node2/kernel/routes.txt"], "proto 84") || !strings.Contains(files["nodes/node2/log.txt"], "twilld starts") ||
		!strings.Contains(files["nodes/node2/files.txt"], "k8s_auth_token: (hidden)") || !strings.Contains(files["nodes/node1/metrics.txt"], "twill_peers ") {
		t.Errorf("with a dead daemon: %v", slices.Sorted(maps.Keys(files)))
	}
	for _, e := range index.Failed() {
		if !strings.HasPrefix(e.Name, "nodes/node2/") {
			t.Errorf("%s: %s", e.Name, e.Error)
		}
	}
}
