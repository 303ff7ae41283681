package kube

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

// TestUpgrade does what docs/upgrade-and-rollback.md says. The other version is the same program under another tag. Neither loses
// a packet.
func TestUpgrade(t *testing.T) {
	if testing.Short() {
		t.Skip("takes too long for -short")
	}
	const next = "next"
	r := bare(t, "vxlan", kubetest.SiteOptions{Kubelet: impatient})
	for _, m := range r.Machines {
		_, err := run(t.Context(), m, "images=$(ctr -n k8s.io images list -q | grep /twill:) && ctr -n k8s.io images tag $images docker.io/twill-cni/twill:"+next)
		must(t, err)
	}
	r.helm(t, append([]string{"install", "twill", repository("deploy/chart/twill"), "-n", namespace}, r.values()...)...)
	r.serving(t)
	before := r.images(t)
	r.stand(t)
	page := open(t, "docs/upgrade-and-rollback.md", "deploy/chart/twill", repository("deploy/chart/twill"))
	l := r.load(t)
	helm := func(begin string, more ...string) {
		t.Helper()
		r.helm(t, append(strings.Fields(page.command(t, begin))[1:], more...)...)
		r.rolledOut(t, daemonSet)
	}
	helm("helm upgrade", "--set", "image.tag="+next)
	if got := r.images(t); !strings.HasSuffix(got, ":"+next) {
		t.Errorf("after the upgrade the image is %s", got)
	}
	helm("helm rollback")
	if got := r.images(t); got != before {
		t.Errorf("after the rollback the image is %s, want %s", got, before)
	}
	l.whole(t)
	must(t, r.reachable(t.Context()))
}

// images returns the image of all pods of Twill, which have the same.
func (r *rig) images(t testing.TB) string {
	t.Helper()
	var image string
	r.within(t, enough, func(ctx context.Context) error {
		out, err := r.Cluster.Kubectl(ctx, "-n", namespace, "get", "pods", "-l", "app.kubernetes.io/name=twill", "-o", "jsonpath={.items[*].spec.containers[*].image}")
		if err != nil {
			return err
		}
		words := strings.Fields(out)
		for _, word := range words {
			if word != words[0] {
				return fmt.Errorf("images are %v", words)
			}
		}
		if len(words) != len(r.Machines) {
			return fmt.Errorf("%d pods have the images %v", len(words), words)
		}
		image = words[0]
		return nil
	})
	return image
}
