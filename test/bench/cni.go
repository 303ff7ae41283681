package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"
)

// A chain is a CNI network configuration and where its plugins are.
type chain struct {
	name    string
	plugins []map[string]any
	bin     string
}

// Both chains give a pod an interface on a bridge, an address, a default route and one host port. Masquerading is off in the
// reference chain, because in Twill the daemon's one table does it and no ADD pays for it.
func (b bench) chains() []chain {
	return []chain{
		{"bridge + host-local + portmap", []map[string]any{
			{"type": "bridge", "bridge": "ref0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "ipam": map[string]any{
				"type": "host-local", "ranges": [][]map[string]any{{{"subnet": "10.98.0.0/16"}}}, "routes": []map[string]any{{"dst": "0.0.0.0/0"}}}},
			{"type": "portmap", "capabilities": map[string]any{"portMappings": true}},
		}, b.peers},
		{"twill", []map[string]any{
			{"type": "twill", "ipam": map[string]any{"type": "twill-ipam", "ranges": [][]map[string]any{{{"subnet": "10.99.0.0/16"}}}},
				"capabilities": map[string]any{"portMappings": true}},
		}, b.bin},
	}
}

// rival is a chain in a run, with what was measured.
type rival struct {
	chain
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
	add  samples
	del  samples
}

func runCNI(b bench) error {
	if err := settle(); err != nil {
		return err
	}
	pods, err := makePods(b.scale(320))
	if err != nil {
		return err
	}
	rows := [][]string{{"", "ADD p50", "ADD p99", "DEL p50", "DEL p99"}}
	for _, parallel := range []int{1, 16} {
		rivals, err := b.rivals()
		if err != nil {
			return err
		}
		// The rivals take turns, a share of the pods at a time.
		const turns = 8
		for turn := range turns {
			share := pods[turn*len(pods)/turns : (turn+1)*len(pods)/turns]
			for _, r := range rivals {
				if err := r.attach(share, parallel); err != nil {
					return err
				}
			}
		}
		for _, r := range rivals {
			rows = append(rows, []string{fmt.Sprintf("%s, %d at a time", r.name, parallel),
				ms(r.add.quantile(.5)), ms(r.add.quantile(.99)), ms(r.del.quantile(.5)), ms(r.del.quantile(.99))})
		}
		ref, own := rivals[0], rivals[1]
		rows = append(rows, []string{"  twill / reference",
			ratio(own.add.quantile(.5), ref.add.quantile(.5)), ratio(own.add.quantile(.99), ref.add.quantile(.99)),
			ratio(own.del.quantile(.5), ref.del.quantile(.5)), ratio(own.del.quantile(.99), ref.del.quantile(.99))})
	}
	table(rows...)
	return nil
}

func (b bench) rivals() ([]*rival, error) {
	var rivals []*rival
	for _, c := range b.chains() {
		text, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "bench-" + c.plugins[0]["type"].(string), "plugins": c.plugins})
		if err != nil {
			return nil, err
		}
		list, err := libcni.NetworkConfFromBytes(text)
		if err != nil {
			return nil, fmt.Errorf("chain %s: %w", c.name, err)
		}
		rivals = append(rivals, &rival{chain: c, list: list, cni: libcni.NewCNIConfigWithCacheDir([]string{c.bin}, "/run/cni-cache", nil)})
	}
	return rivals, nil
}

// attach adds and then removes each of the pods, so many at a time, and notes how long each took.
func (r *rival) attach(pods []string, parallel int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	runtimeConf := func(i int) *libcni.RuntimeConf {
		return &libcni.RuntimeConf{
			ContainerID: fmt.Sprintf("%s-%s", filepath.Base(pods[i]), r.plugins[0]["type"]),
			NetNS:       pods[i],
			IfName:      "eth0",
			CapabilityArgs: map[string]any{"portMappings": []map[string]any{
				{"hostPort": 20000 + i, "containerPort": 80, "protocol": "tcp"}}},
		}
	}
	took, err := forEach(len(pods), parallel, func(i int) error {
		_, err := r.cni.AddNetworkList(ctx, r.list, runtimeConf(i))
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: ADD: %w", r.name, err)
	}
	r.add = append(r.add, took...)
	took, err = forEach(len(pods), parallel, func(i int) error { return r.cni.DelNetworkList(ctx, r.list, runtimeConf(i)) })
	if err != nil {
		return fmt.Errorf("%s: DEL: %w", r.name, err)
	}
	r.del = append(r.del, took...)
	return nil
}

// forEach calls f for 0 to n-1, parallel at a time, and returns how long each call took.
func forEach(n, parallel int, f func(int) error) (samples, error) {
	took := make(samples, n)
	next := make(chan int)
	errs := make(chan error, parallel)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for i := range next {
				start := time.Now()
				if err := f(i); err != nil {
					errs <- err
					return
				}
				took[i] = time.Since(start)
			}
		})
	}
	for i := range n {
		select {
		case next <- i:
		case err := <-errs:
			close(next)
			return nil, err
		}
	}
	close(next)
	wg.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
		return took, nil
	}
}

// makePods makes n network namespaces and returns their paths, as a container runtime does before it calls ADD.
func makePods(n int) ([]string, error) {
	dir := "/run/netns"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	paths := make([]string, n)
	for i := range n {
		paths[i] = filepath.Join(dir, fmt.Sprintf("pod%d", i))
		if err := os.WriteFile(paths[i], nil, 0o644); err != nil {
			return nil, err
		}
		made := make(chan error)
		go func() {
			runtime.LockOSThread() // the thread ends with the goroutine: it stays in the pod's namespace
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				made <- fmt.Errorf("new network namespace: %w", err)
				return
			}
			made <- unix.Mount("/proc/thread-self/ns/net", paths[i], "", unix.MS_BIND, "")
		}()
		if err := <-made; err != nil {
			return nil, fmt.Errorf("make pod %s: %w", paths[i], err)
		}
	}
	return paths, nil
}
