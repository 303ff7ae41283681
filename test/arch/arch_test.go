package arch

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/twill-cni/twill"

// A rule forbids imports that match one of deny (by path prefix) to the packages that match one of in, except those
// that match one of except. Package names are relative to the module.
type rule struct {
	name       string
	in         []string
	except     []string
	deny       []string
	transitive bool // what the packages link counts, not only what they name
}

var rules = []rule{
	{
		name:   "only kernel/ speaks netlink",
		in:     []string{""},
		except: []string{"kernel/linux", "kernel/podnet", "kernel/path", "kernel/nft", "kernel/conntrack", "ctl/lab", "bgp/gobgp/peertest", "test"},
		deny:   []string{"github.com/vishvananda/netlink", "github.com/mdlayher/netlink"},
	},
	{
		name:   "only kernel/nft encodes nftables",
		in:     []string{""},
		except: []string{"kernel/nft"},
		deny:   []string{"github.com/google/nftables"},
	},
	{
		name:   "only store/etcd is an etcd client",
		in:     []string{""},
		except: []string{"store/etcd", "ctl", "test"},
		deny:   []string{"go.etcd.io/etcd/client", "go.etcd.io/etcd/api"},
	},
	{
		name:   "only store/kube is a client of the Kubernetes API, and ctl/kubenodes on the operator's side",
		in:     []string{""},
		except: []string{"store/kube", "ctl/kubenodes", "test"},
		deny:   []string{"k8s.io/client-go"},
	},
	{
		name:   "only bgp/gobgp knows the BGP library",
		in:     []string{""},
		except: []string{"bgp/gobgp", "test/bench"},
		deny:   []string{"github.com/osrg/gobgp"},
	},
	{
		name:   "only dns/ speaks DNS",
		in:     []string{""},
		except: []string{"dns", "test"},
		deny:   []string{"github.com/miekg/dns"},
	},
	{
		name:   "only the page's test drives a browser",
		in:     []string{""},
		except: []string{"test/e2e/page"},
		deny:   []string{"github.com/chromedp"},
	},
	{
		name:   "only the lab and tests run an etcd server",
		in:     []string{""},
		except: []string{"ctl", "test"},
		deny:   []string{"go.etcd.io/etcd/server"},
	},
	{
		name: "what decides is pure: no kernel, no network, no processes",
		in: []string{"kernel", "kernel/reconcile", "store", "store/manifest", "store/endpoints", "store/policies", "overlay", "bgp", "bgp/config", "bgp/topology", "proxy/dnat", "policy", "policy/filter", "daemon/masquerade", "daemon/deadend", "daemon/attachments", "daemon/report", "daemon/peers", "daemon/redact", "daemon/lastlog",
			"plugins/attach", "plugins/netconf", "plugins/hostport", "proxy/service", "ipam", "dns/zone", "ctl/check", "daemon/trace"},
		deny: []string{"github.com/vishvananda", "github.com/google/nftables", "golang.org/x/sys", "os/exec", "syscall", "net/http",
			module + "/kernel/linux", module + "/kernel/podnet", module + "/kernel/nft", module + "/kernel/nflog", module + "/kernel/conntrack"},
	},
	{
		name: "the kernel in memory is pure but for the numbers of errors",
		in:   []string{"kernel/kerneltest"},
		deny: []string{"github.com/vishvananda", "github.com/google/nftables", "golang.org/x/sys", "os/exec", "net/http",
			module + "/kernel/linux", module + "/kernel/podnet", module + "/kernel/nft", module + "/kernel/nflog", module + "/kernel/conntrack"},
	},
	{
		// plugins/delegate runs the IPAM plugin that the configuration names, which is never the case with twill-ipam.
		name:   "no program is run at run time",
		in:     []string{""},
		except: []string{"plugins/delegate", "ctl/lab", "ctl/twillctl", "bgp/gobgp/peertest", "test"},
		deny:   []string{"os/exec"},
	},
	{
		name: "the CNI binaries stay small",
		in:   []string{"plugins/twill", "ipam/twill-ipam"},
		deny: []string{"go.etcd.io", "google.golang.org/grpc", "github.com/prometheus", "github.com/spf13/cobra", "k8s.io", "sigs.k8s.io",
			"github.com/osrg/gobgp", "github.com/miekg/dns", "net/http", module + "/store", module + "/daemon", module + "/dns", module + "/overlay", module + "/ctl"},
		transitive: true,
	},
	{
		name:       "the daemon links no etcd server",
		in:         []string{"daemon/twilld"},
		deny:       []string{"go.etcd.io/etcd/server", module + "/ctl", module + "/test"},
		transitive: true,
	},
	{
		name:       "the product does not depend on tests",
		in:         []string{"kernel/linux", "store/etcd", "daemon/twilld", "plugins/twill", "ipam/twill-ipam", "ctl/twillctl"},
		deny:       []string{"testing", module + "/test", module + "/kernel/kerneltest", module + "/store/storetest", module + "/policy/policytest", module + "/bgp/gobgp/peertest", module + "/daemon/daemontest"},
		transitive: true,
	},
}

type pkg struct {
	ImportPath string
	Name       string
	Doc        string
	Imports    []string
	Deps       []string
}

func TestImports(t *testing.T) {
	pkgs := list(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			matched := false
			for _, p := range pkgs {
				rel := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
				if !inScope(rel, r) {
					continue
				}
				matched = true
				imports := p.Imports
				if r.transitive {
					imports = p.Deps
				}
				for _, i := range imports {
					if slices.ContainsFunc(r.deny, func(d string) bool { return i == d || strings.HasPrefix(i, d+"/") }) {
						t.Errorf("%s imports %s", rel, i)
					}
				}
			}
			if !matched {
				t.Errorf("the rule applies to no package: has %v moved?", r.in)
			}
		})
	}
}

// inScope reports whether the rule speaks of the package. An empty entry of in means every package; any other names that
// package alone, while an entry of except names a whole folder.
func inScope(rel string, r rule) bool {
	if slices.ContainsFunc(r.except, func(e string) bool { return rel == e || strings.HasPrefix(rel, e+"/") }) {
		return false
	}
	return slices.Contains(r.in, "") || slices.Contains(r.in, rel)
}

func TestPackageNamesAndDocs(t *testing.T) {
	banned := []string{"util", "utils", "common", "helper", "helpers", "types", "base", "misc", "pkg"}
	for _, p := range list(t) {
		if slices.Contains(banned, path.Base(p.ImportPath)) || slices.Contains(banned, p.Name) {
			t.Errorf("%s: a package is the noun that it owns; %q says nothing", p.ImportPath, p.Name)
		}
		if p.Doc == "" {
			t.Errorf("%s has no package comment (doc.go)", p.ImportPath)
		}
	}
}

func TestFileSizes(t *testing.T) {
	const most = 500
	for _, name := range goFiles(t) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(data, []byte("\n")); n > most {
			t.Errorf("%s has %d lines, more than %d: it owns more than one thing", name, n, most)
		}
	}
}

// Every direct dependency has its reason in docs/dependencies.md.
func TestDependenciesHaveReasons(t *testing.T) {
	reasons, err := os.ReadFile(filepath.Join(root(t), "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, mod := range directDependencies(t) {
		if !bytes.Contains(reasons, []byte("`"+mod+"`")) {
			t.Errorf("%s has no reason in docs/dependencies.md", mod)
		}
	}
}

func directDependencies(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	var mods []string
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(lines.Text()), "require "))
		if len(fields) >= 2 && strings.HasPrefix(fields[1], "v") && !strings.Contains(lines.Text(), "// indirect") {
			mods = append(mods, fields[0])
		}
	}
	if len(mods) == 0 {
		t.Fatal("go.mod names no direct dependency")
	}
	return mods
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports,Deps", "./...")
	cmd.Dir = root(t)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}

func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root(t), func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(name, ".go") {
			files = append(files, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
