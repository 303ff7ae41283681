package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/twill-cni/twill/test/kubetest"
)

const podSelector = "app=bench"

// podWorld is a Kubernetes whose machines have different networks, and a client that sees when Pods change.
type podWorld struct {
	bench
	site   *kubetest.Site
	rivals []*podRival // the reference, then Twill
	client kubernetes.Interface
	made   int
	end    context.CancelFunc // of the watch

	mu      sync.Mutex
	seen    map[string]*podLife // by name
	changed chan struct{}
}

// podLife is when the client saw what became of a Pod.
type podLife struct{ scheduled, running, gone time.Time }

func launchPodWorld(ctx context.Context, b bench) (*podWorld, error) {
	image, err := filepath.Abs(cmp.Or(os.Getenv("TWILL_IMAGE"), filepath.Join(b.bin, "twill-image.tar")))
	if err == nil {
		_, err = os.Stat(image)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: run `make image kube kube-node`", err)
	}
	w := &podWorld{bench: b, seen: map[string]*podLife{}, changed: make(chan struct{}, 1), end: func() {}}
	// flanneld of a network of one family does not survive a Node of both.
	cluster := kubetest.Options{ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		Controllers: &kubetest.Controllers{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}}
	w.site, err = kubetest.LaunchSite(ctx, kubetest.SiteOptions{Machines: 2, Cluster: cluster, Archives: []string{image}, Prepare: w.prepare})
	if err != nil {
		return nil, err
	}
	reference, err1 := w.flannelNetwork(ctx, w.site.Machines[0])
	own, err2 := w.twillNetwork(ctx, w.site.Machines[1])
	w.rivals = []*podRival{{nodeNetwork: reference, name: "flannel + kube-proxy"}, {nodeNetwork: own, name: "twill"}}
	if err := errors.Join(err1, err2, w.watch(ctx)); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// prepare gives a machine what packages of Kubernetes bring: containerd asks for the plugin loopback before any other.
func (w *podWorld) prepare(m *kubetest.Machine) error {
	return m.Install(cniPrograms, w.peer("loopback"))
}

func (w *podWorld) close() error {
	w.end()
	for _, r := range w.rivals {
		if r.end != nil {
			r.end()
		}
	}
	return w.site.Close()
}

// explain adds to an error what Kubernetes knows.
func (w *podWorld) explain(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, args := range []string{"get nodes,pods -A -o wide", "get events -A", "-n kube-system logs --tail=20 --prefix -l app=flannel",
		"-n kube-system logs --tail=20 --prefix -l app.kubernetes.io/name=twill"} {
		out, failed := w.site.Cluster.Kubectl(ctx, strings.Fields(args)...)
		err = errors.Join(err, failed, errors.New(out[max(0, len(out)-3000):]))
	}
	return err
}

// install gives a Node its network, and returns how long it took to be Ready.
func (w *podWorld) install(ctx context.Context, r *podRival) (time.Duration, error) {
	name := r.machine.Name()
	err := w.site.Cluster.Await(ctx, "the Pod networks of "+name, func(ctx context.Context) error {
		_, err := w.site.Cluster.PodCIDRs(ctx, name)
		return err
	})
	if err == nil {
		err = r.before(ctx)
	}
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := w.site.Cluster.Apply(ctx, r.daemonSet); err != nil {
		return 0, err
	}
	if err := r.after(ctx); err != nil {
		return 0, err
	}
	err = w.site.Cluster.AwaitReady(ctx, name)
	return time.Since(begin), err
}

// renew makes a Node and its machine new: no DaemonSet, nothing in the kernel, no plugins and no configuration, and a Node that was never Ready.
// Images stay.
func (w *podWorld) renew(ctx context.Context, r *podRival) error {
	c, m := w.site.Cluster, r.machine
	if err := c.Delete(ctx, r.daemonSet); err != nil {
		return err
	}
	r.end()
	if err := m.Crash(); err != nil {
		return err
	}
	if _, err := c.Do(ctx, kubetest.Request{Method: http.MethodDelete, Path: "/api/v1/nodes/" + m.Name()}); err != nil {
		return err
	}
	// The controller of DaemonSets may not know yet.
	query := metav1.ListOptions{FieldSelector: "spec.nodeName=" + m.Name()}
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	err := c.Await(ctx, "the end of the Pods of "+m.Name(), func(ctx context.Context) error {
		list, err := w.client.CoreV1().Pods("kube-system").List(ctx, query)
		if err != nil || len(list.Items) == 0 {
			return err
		}
		return errors.Join(errors.New("there are some"), w.client.CoreV1().Pods("kube-system").DeleteCollection(ctx, now, query))
	})
	if err == nil {
		err = m.Boot(ctx)
	}
	if err == nil {
		_, err = m.Run(ctx, "sh", "-c", "rm -rf "+cniConfigs+"/* "+cniPrograms+"/* /var/lib/cni "+cniTimed)
	}
	if err == nil {
		err = w.prepare(m)
	}
	if err == nil {
		err = m.StartKubelet(ctx)
	}
	if err != nil {
		return fmt.Errorf("renew %s: %w", m.Name(), err)
	}
	return nil
}

// watch makes the client and has it note what becomes of Pods.
func (w *podWorld) watch(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", w.site.Cluster.Admin())
	if err != nil {
		return err
	}
	config.QPS = -1 // no limit
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialFrom(ctx, w.site.Control.Namespace, network, address)
	}
	if w.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	ctx, w.end = context.WithCancel(ctx)
	events, err := w.client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{LabelSelector: podSelector, TimeoutSeconds: new(int64(24 * 60 * 60))})
	if err != nil {
		return err
	}
	go func() {
		for e := range events.ResultChan() {
			if pod, ok := e.Object.(*corev1.Pod); ok {
				w.note(time.Now(), e.Type, pod)
			}
		}
	}()
	return nil
}

func (w *podWorld) note(at time.Time, what watch.EventType, pod *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	life := w.seen[pod.Name]
	if life == nil {
		life = &podLife{}
		w.seen[pod.Name] = life
	}
	for _, step := range []struct {
		at   *time.Time
		done bool
	}{{&life.scheduled, pod.Spec.NodeName != ""}, {&life.running, pod.Status.Phase == corev1.PodRunning}, {&life.gone, what == watch.Deleted}} {
		if step.done && step.at.IsZero() {
			*step.at = at
		}
	}
	select {
	case w.changed <- struct{}{}:
	default: // the last one has not been looked at
	}
}

// until waits for a step in the lives of Pods, and returns the lives.
func (w *podWorld) until(ctx context.Context, names []string, step func(podLife) time.Time) ([]podLife, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		var lives []podLife
		w.mu.Lock()
		for _, name := range names {
			if life := w.seen[name]; life != nil && !step(*life).IsZero() {
				lives = append(lives, *life)
			}
		}
		w.mu.Unlock()
		if len(lives) == len(names) {
			return lives, nil
		}
		select {
		case <-w.changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d Pods have come so far: %w", len(lives), len(names), ctx.Err())
		}
	}
}

// make makes Pods that do nothing, and returns how long each took from Scheduled to Running.
func (w *podWorld) make(ctx context.Context, r *podRival, n int, atOnce bool) (samples, error) {
	n = max(n, 1)
	var took samples
	var names []string
	wait := func() error {
		lives, err := w.until(ctx, names, func(l podLife) time.Time { return l.running })
		for _, l := range lives {
			took = append(took, l.running.Sub(l.scheduled))
		}
		names = nil
		return err
	}
	for range n {
		w.made++
		name := fmt.Sprintf("bench-%d", w.made)
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "bench"}},
			Spec: corev1.PodSpec{
				NodeSelector: map[string]string{"kubernetes.io/hostname": r.machine.Name()},
				Containers:   []corev1.Container{{Name: "main", Image: kubetest.PauseImage}},
			},
		}
		if _, err := w.client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return nil, err
		}
		names = append(names, name)
		if !atOnce {
			if err := wait(); err != nil {
				return nil, err
			}
		}
	}
	return took, wait()
}

// remove removes all Pods that make made on a machine, and returns how long that took.
func (w *podWorld) remove(ctx context.Context, r *podRival) (time.Duration, error) {
	query := metav1.ListOptions{LabelSelector: podSelector, FieldSelector: "spec.nodeName=" + r.machine.Name()}
	list, err := w.client.CoreV1().Pods("default").List(ctx, query)
	if err != nil {
		return 0, err
	}
	var names []string
	for _, pod := range list.Items {
		names = append(names, pod.Name)
	}
	begin := time.Now()
	if err := w.client.CoreV1().Pods("default").DeleteCollection(ctx, metav1.DeleteOptions{}, query); err != nil {
		return 0, err
	}
	_, err = w.until(ctx, names, func(l podLife) time.Time { return l.gone })
	return time.Since(begin), err
}

// leftovers returns what is left of Pods that are gone, after patience, and how long it took until that was all.
func (w *podWorld) leftovers(ctx context.Context, r *podRival) (took time.Duration, left int, err error) {
	const patience = 20 * time.Second
	begin := time.Now()
	var lines []string
	err = w.site.Cluster.Await(ctx, "the machine to be as before", func(ctx context.Context) error {
		var err error
		lines, err = r.foreign(ctx)
		if err == nil && len(lines) > 0 && time.Since(begin) < patience {
			err = fmt.Errorf("there are %q", lines)
		}
		return err
	})
	if len(lines) > 0 {
		fmt.Fprintf(os.Stderr, "%s left %d lines: %q\n", r.name, len(lines), lines[:min(len(lines), 20)])
	}
	return time.Since(begin), len(lines), err
}

// dialFrom connects from a network namespace.
func dialFrom(ctx context.Context, namespace, network, address string) (net.Conn, error) {
	type answer struct {
		conn net.Conn
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine: it stays in the namespace
		file, err := os.Open(namespace)
		if err != nil {
			answers <- answer{nil, err}
			return
		}
		defer file.Close() // it was for reading
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			answers <- answer{nil, fmt.Errorf("enter network namespace %s: %w", namespace, err)}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		answers <- answer{conn, err}
	}()
	a := <-answers
	return a.conn, a.err
}
