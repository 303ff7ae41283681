package kubetest

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options say what a cluster is like. The zero value of each field but Addr stands for its default. A test that names the ClusterIPs of its
// Services takes them from the first 256 addresses of the default networks: the API server gives those away last (KEP-3070).
type Options struct {
	Namespace    string         // file of the network namespace in which kube-apiserver lives; default: the caller's
	Addr         netip.Addr     // where kube-apiserver listens; loopback will do when nobody needs the Service "kubernetes"
	Port         uint16         // default 6443
	ServiceCIDRs []netip.Prefix // at most one a family, that of Addr first; default 10.96.0.0/16 and fd00:96::/112
	Args         []string       // more flags for kube-apiserver; they win
	Controllers  *Controllers   // what runs beside kube-apiserver; default: nothing does, and a test writes what controllers would
	Programs     string         // holds the programs of Kubernetes; default TWILL_KUBE, then .cache/kube of the repository
	Timeout      time.Duration  // for each process to be ready; default one minute
}

var (
	defaultServicesV4 = netip.MustParsePrefix("10.96.0.0/16")
	defaultServicesV6 = netip.MustParsePrefix("fd00:96::/112")
)

const (
	defaultPort    = 6443
	defaultTimeout = time.Minute
)

// complete fills the defaults in and checks the rest.
func (o Options) complete() (Options, error) {
	if !o.Addr.IsValid() {
		return o, errors.New("there is no address for kube-apiserver")
	}
	o.Port = cmp.Or(o.Port, defaultPort)
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	if len(o.ServiceCIDRs) == 0 {
		o.ServiceCIDRs = []netip.Prefix{defaultServicesV4, defaultServicesV6}
		if o.Addr.Is6() {
			o.ServiceCIDRs = []netip.Prefix{defaultServicesV6, defaultServicesV4}
		}
	}
	if o.ServiceCIDRs[0].Addr().Is6() != o.Addr.Is6() {
		return o, fmt.Errorf("the first service CIDR %v is not of the family of %v", o.ServiceCIDRs[0], o.Addr)
	}
	var err error
	needs := controlPrograms
	if o.Controllers != nil {
		needs = slices.Concat(needs, controllerPrograms)
		if o.Controllers, err = o.Controllers.complete(o.Addr); err != nil {
			return o, err
		}
	}
	o.Programs, err = programs(o.Programs, needs)
	return o, err
}

// What "make kube" and "make kube-node" build, by who needs it.
var (
	controlPrograms    = []string{"etcd", "kube-apiserver", "kube-proxy", "kubectl"}
	controllerPrograms = []string{"kube-controller-manager", "kube-scheduler"}
	machinePrograms    = []string{"kubelet", "containerd", "containerd-shim-runc-v2", "ctr", "runc", "pause"}
)

// programs returns the directory that holds the programs.
func programs(dir string, names []string) (string, error) {
	dir = cmp.Or(dir, os.Getenv("TWILL_KUBE"))
	if dir == "" {
		root, err := repository()
		if err != nil {
			return "", fmt.Errorf("find the programs: %w", err)
		}
		dir = filepath.Join(root, ".cache", "kube")
	}
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			target := "make kube-node"
			if slices.Contains(controlPrograms, name) {
				target = "make kube"
			}
			return "", fmt.Errorf("find the programs (%s builds them): %w", target, err)
		}
	}
	return filepath.Abs(dir)
}

// repository returns the directory above the current one that holds the product's go.mod.
func repository() (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := here; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.Contains("\n"+string(text), "\nmodule github.com/twill-cni/twill\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is in no checkout of Twill", here)
		}
	}
}
