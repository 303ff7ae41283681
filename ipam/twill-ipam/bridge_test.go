package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ipam"
)

// namespaces moves the test's thread to a new network namespace and makes another for a pod, whose path it returns. Both end with the
// test: the thread is never unlocked, so that the runtime ends it.
func namespaces(t *testing.T) (pod string) {
	t.Helper()
	runtime.LockOSThread()
	unshare := func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Fatalf("make a network namespace: %v", err)
		}
	}
	unshare()
	podNS, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { podNS.Close() })
	unshare()
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), podNS.Fd())
}

// TestUnderReferenceBridge runs the reference bridge plugin with twill-ipam in the place of host-local, through libcni.
func TestUnderReferenceBridge(t *testing.T) {
	r := newRig(t)
	bin := filepath.Dir(r.bin)
	build := exec.Command("go", "build", "-C", "../../test/reference", "-o", bin+"/", "github.com/containernetworking/plugins/plugins/main/bridge")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the reference bridge: %v\n%s", err, out)
	}
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			pod := namespaces(t)
			r := &rig{bin: r.bin, dir: filepath.Join(r.dir, version)}
			list, err := libcni.ConfListFromBytes([]byte(fmt.Sprintf(`{"cniVersion":%q,"name":"net","plugins":[{"type":"bridge","bridge":"br0","isGateway":true,
				"ipam":{"type":"twill-ipam","dataDir":%q,"ranges":[[{"subnet":"10.0.0.0/30"}],[{"subnet":"fd00::/64"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`,
				version, r.dir)))
			if err != nil {
				t.Fatal(err)
			}
			cni := libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil)
			bridgeLife(t, cni, list, &libcni.RuntimeConf{ContainerID: "pod1", NetNS: pod, IfName: "eth0"})
		})
	}
}

// bridgeLife attaches, checks and detaches one pod in a network that has room for one.
func bridgeLife(t *testing.T, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) {
	t.Helper()
	ctx, version := t.Context(), list.CNIVersion
	status := func(want uint) {
		t.Helper()
		if version != "1.1.0" {
			return // STATUS came with 1.1
		}
		if err := cni.GetStatusNetworkList(ctx, list); code(err) != want {
			t.Errorf("STATUS: %v, want code %d", err, want)
		}
	}
	status(0)
	raw, err := cni.AddNetworkList(ctx, list, rt)
	if err != nil {
		t.Fatal(err)
	}
	res, err := current.NewResultFromResult(raw)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.IPs) != 2 || res.IPs[0].Address.String() != "10.0.0.2/30" || res.IPs[1].Address.String() != "fd00::2/64" {
		t.Errorf("addresses %v", res.IPs)
	}
	if err := cni.CheckNetworkList(ctx, list, rt); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	status(types.ErrPluginNotAvailable)
	second := *rt
	second.ContainerID, second.IfName = "pod2", "eth1"
	_, err = cni.AddNetworkList(ctx, list, &second)
	var cniErr *types.Error
	if !errors.As(err, &cniErr) || cniErr.Code != ipam.CodeNoAddress {
		t.Errorf("ADD to a full network: %v, want code %d", err, ipam.CodeNoAddress)
	}
	for range 2 {
		if err := cni.DelNetworkList(ctx, list, rt); err != nil {
			t.Errorf("DEL: %v", err)
		}
	}
	status(0)
	if err := cni.CheckNetworkList(ctx, list, rt); err == nil {
		t.Error("CHECK succeeds after DEL")
	}
}
