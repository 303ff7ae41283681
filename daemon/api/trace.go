package api

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"

	"github.com/twill-cni/twill/kernel/path"
	"github.com/twill-cni/twill/plugins/record"
)

// PathPods returns the pods that the records below a run directory tell of, each once for each of its addresses.
func PathPods(runDir string) ([]path.Pod, error) {
	records, err := record.Look(runDir)
	if err != nil {
		return nil, err
	}
	pods := []path.Pod{}
	for _, r := range records {
		if r.Damage != nil || !r.Complete {
			continue
		}
		for _, a := range r.Addresses {
			pods = append(pods, path.Pod{Name: r.Pod, Netns: r.Netns, IfName: r.IfName, HostLink: r.HostLink, Bridge: r.Bridge, Address: a.Addr().Unmap()})
		}
	}
	return pods, nil
}

// handleTrace adds the answers about ways of packets. They need no other part of the daemon.
func handleTrace(mux *http.ServeMux, runDir string) {
	mux.HandleFunc("GET /trace/pods", func(w http.ResponseWriter, _ *http.Request) {
		pods, err := PathPods(runDir)
		Answer(w, pods, err)
	})
	mux.HandleFunc("GET /trace", func(w http.ResponseWriter, r *http.Request) {
		view, err := pathOf(r.Context(), runDir, r.URL.Query())
		Answer(w, view, err)
	})
}

// pathOf looks at the way between a pod of the node and another address.
func pathOf(ctx context.Context, runDir string, form url.Values) (*path.View, error) {
	pod, err := netip.ParseAddr(form.Get("pod"))
	if err != nil {
		return nil, fmt.Errorf("pod: %w", err)
	}
	other, err := netip.ParseAddr(form.Get("other"))
	if err != nil {
		return nil, fmt.Errorf("other: %w", err)
	}
	if pod.Is4() != other.Is4() {
		return nil, fmt.Errorf("pod %s and other %s: want addresses of one family", pod, other)
	}
	return LookFrom(ctx, runDir, pod, other)
}

// LookFrom returns what this node's kernel holds for packets between one of its pods and another address of the same family.
func LookFrom(ctx context.Context, runDir string, pod, other netip.Addr) (*path.View, error) {
	pods, err := PathPods(runDir)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if p.Address == pod {
			runtime.LockOSThread() // the sysctls are those of the thread's namespace
			defer runtime.UnlockOSThread()
			return path.Look(ctx, path.Query{Pod: p, Other: other})
		}
	}
	return nil, fmt.Errorf("pod %s: no pod of this node has that address", pod)
}

// TracePods returns the pods of the daemon's node.
func (c *Client) TracePods(ctx context.Context) ([]path.Pod, error) {
	return get[[]path.Pod](ctx, c, "/trace/pods", nil)
}

// Trace returns what the kernel of the daemon's node holds for packets between one of its pods and another address.
func (c *Client) Trace(ctx context.Context, pod, other netip.Addr) (*path.View, error) {
	return get[*path.View](ctx, c, "/trace", url.Values{"pod": {pod.String()}, "other": {other.String()}})
}
