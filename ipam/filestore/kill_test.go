package filestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twill-cni/twill/ipam"
)

// buildPlugin builds the real plugin with working failpoints.
func buildPlugin(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "twill-ipam")
	cmd := exec.Command("go", "build", "-tags", "failpoint", "-o", bin, "../twill-ipam")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return bin
}

// failpoints returns the names of all failpoints in this package's source, so that none can be forgotten here.
func failpoints(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`).FindAllSubmatch(src, -1) {
			all = append(all, string(m[1]))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// call is one call of the plugin.
type call struct {
	command, id, args, attachments string
}

func (c call) cmd(ctx context.Context, bin string, a *Allocator) *exec.Cmd {
	ranges := ""
	for i, set := range a.cfg.Sets {
		if i > 0 {
			ranges += ","
		}
		ranges += fmt.Sprintf(`[{"subnet":%q}]`, set[0].Subnet)
	}
	attachments := ""
	if c.attachments != "" {
		attachments = `,"cni.dev/valid-attachments":` + c.attachments
	}
	cmd := exec.CommandContext(ctx, bin)
	cmd.Stdin = bytes.NewBufferString(fmt.Sprintf(`{"cniVersion":"1.1.0","name":"net","type":"x","ipam":{"type":"twill-ipam","dataDir":%q,"ranges":[%s]}%s}`,
		a.cfg.DataDir, ranges, attachments))
	cmd.Env = []string{"CNI_COMMAND=" + c.command, "CNI_CONTAINERID=" + c.id, "CNI_IFNAME=eth0", "CNI_NETNS=/run/netns/none", "CNI_PATH=/none",
		"CNI_ARGS=" + c.args, "CNI_NETNS_OVERRIDE=true"}
	return cmd
}

func killed(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// TestKill kills the plugin at each of its failpoints in each of several calls, lets each of several others come next, and wants the store
// whole: nobody else's lease changed, no address leased twice, none lost.
func TestKill(t *testing.T) {
	bin := buildPlugin(t)
	calls := map[string]call{
		"add on an empty store":        {command: "ADD", id: "c50"},
		"add":                          {command: "ADD", id: "c50"},
		"add of an address in between": {command: "ADD", id: "c50", args: "IP=10.0.0.4"},
		"del":                          {command: "DEL", id: "c1"},
		"gc":                           {command: "GC", attachments: `[{"containerID":"c3","ifname":"eth0"}]`},
	}
	next := map[string]func(t *testing.T, a *Allocator){
		"another allocation": func(t *testing.T, a *Allocator) { add(t, a, 60); del(t, a, 60) },
		"the same again":     func(t *testing.T, a *Allocator) { add(t, a, 50); del(t, a, 50); del(t, a, 1) },
		"release of both":    func(t *testing.T, a *Allocator) { del(t, a, 50); del(t, a, 1) },
		"garbage collection": func(t *testing.T, a *Allocator) {
			if _, err := a.Retain(t.Context(), []ipam.Owner{own(3)}); err != nil {
				t.Fatal(err)
			}
		},
	}
	for _, point := range failpoints(t) {
		hit := false
		for callName, c := range calls {
			for nextName, follow := range next {
				a := open4test(t, config(t, tmpfs(t), small, `[{"subnet":"fd00::/125"}]`))
				if callName != "add on an empty store" {
					for i := range 5 { // c1 and c3 stay; the addresses .2, .4 and .6 are in the queue in this order
						add(t, a, i)
					}
					for _, i := range []int{0, 2, 4} {
						del(t, a, i)
					}
				}
				cmd := c.cmd(t.Context(), bin, a)
				cmd.Env = append(cmd.Env, "TWILL_FAILPOINT="+point)
				out, err := cmd.CombinedOutput()
				if !killed(err) {
					if err != nil {
						t.Fatalf("%s, %s: %v: %s", point, callName, err, out)
					}
					break // this call does not come by here
				}
				hit = true
				before := t.Failed()
				follow(t, a)
				verifyAfterKill(t, a, callName)
				if t.Failed() && !before {
					t.Errorf("the above after a kill at %s in %s, then %s", point, callName, nextName)
				}
			}
		}
		if !hit && point != "ipam-boot-emptied" {
			t.Errorf("failpoint %s was never hit", point)
		}
	}
}

func verifyAfterKill(t *testing.T, a *Allocator, callName string) {
	t.Helper()
	if callName != "add on an empty store" && leases(t, a)["c3"] != "10.0.0.5 fd00::5" {
		t.Errorf("the lease of c3 changed: %v", leases(t, a))
	}
	if !exists(a.dir) {
		return // killed before there was a store
	}
	add(t, a, 70) // opens, and so repairs, both tables
	del(t, a, 70)
	verify(t, a)
	fillUp(t, a, 5)
}

// TestKillInNewBoot kills the first call after a boot.
func TestKillInNewBoot(t *testing.T) {
	bin := buildPlugin(t)
	a := open4test(t, config(t, tmpfs(t), small), func(a *Allocator) { a.bootID = "earlier" })
	for i := range 5 {
		add(t, a, i)
	}
	cmd := call{command: "ADD", id: "c9"}.cmd(t.Context(), bin, a)
	cmd.Env = append(cmd.Env, "TWILL_FAILPOINT=ipam-boot-emptied")
	if out, err := cmd.CombinedOutput(); !killed(err) {
		t.Fatalf("not killed: %v: %s", err, out)
	}
	now := open4test(t, a.cfg)
	add(t, now, 9)
	verify(t, now)
	fillUp(t, now, 5)
}

// TestKillStorm kills many concurrent processes at random times.
func TestKillStorm(t *testing.T) {
	bin := buildPlugin(t)
	a := open4test(t, config(t, tmpfs(t), `[{"subnet":"10.0.0.0/26"}]`, v6))
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(worker), 3))
			for range 40 {
				c := call{command: []string{"ADD", "ADD", "DEL"}[rnd.IntN(3)], id: own(rnd.IntN(40)).ContainerID}
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rnd.IntN(20_000))*time.Microsecond)
				out, err := c.cmd(ctx, bin, a).CombinedOutput()
				if err != nil && !killed(err) && ctx.Err() == nil {
					t.Errorf("%+v: %v: %s", c, err, out)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	add(t, a, 99)
	del(t, a, 99)
	verify(t, a)
	fillUp(t, a, 61)
}
