package kubenodes

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	typednetworkingv1 "k8s.io/client-go/kubernetes/typed/networking/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/klog/v2"
)

const (
	selector  = "app.kubernetes.io/name=twill" // of what deploy/ installs
	container = "twilld"
	pageSize  = 500
	most      = 20_000 // nodes
)

// Cluster is a Kubernetes cluster. Its methods may be called concurrently.
type Cluster struct {
	config     *rest.Config
	core       typedcorev1.CoreV1Interface
	networking typednetworkingv1.NetworkingV1Interface
}

// Node is a node with the daemon's pod there.
type Node struct {
	Name           string
	Namespace, Pod string
	Running        bool   // the container with the daemon is
	Image          string // of that container
}

// Open reads the kubeconfig, as kubectl does: the file, or $KUBECONFIG, or ~/.kube/config. An empty contextName is the current one.
func Open(file, contextName string) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = file
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: contextName}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 200, 400 // 5,000 nodes are asked in half a minute
	core, err := typedcorev1.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("use the kubeconfig: %w", err)
	}
	networking, err := typednetworkingv1.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("use the kubeconfig: %w", err)
	}
	return &Cluster{config, core, networking}, nil
}

// List returns the nodes that have a pod of the daemon, sorted by name.
func (c *Cluster) List(ctx context.Context) ([]Node, error) {
	var all []Node
	options := metav1.ListOptions{LabelSelector: selector, Limit: pageSize}
	for {
		pods, err := c.core.Pods("").List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("list the daemon's pods: %w", err)
		}
		for _, p := range pods.Items {
			if running, image := stateOf(&p); image != "" && p.Spec.NodeName != "" && p.DeletionTimestamp == nil {
				all = append(all, Node{p.Spec.NodeName, p.Namespace, p.Name, running, image})
			}
		}
		if options.Continue = pods.Continue; options.Continue == "" || len(all) > most {
			break
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no pod of Twill's DaemonSet (%s) is there", selector)
	}
	slices.SortFunc(all, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// stateOf reports whether the daemon's container runs, and its image; empty: the pod has none.
func stateOf(p *corev1.Pod) (running bool, image string) {
	for _, c := range p.Spec.Containers {
		if c.Name == container {
			image = c.Image
		}
	}
	running = slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == container && s.State.Running != nil })
	return running, image
}

// Dial connects to the socket of the node's daemon. The connection lasts until it is closed or ctx ends.
func (c *Cluster) Dial(ctx context.Context, n Node) (net.Conn, error) { return c.run(ctx, n, "relay") }

// maxOutput is how much of what a command prints is taken, in bytes.
const maxOutput = 16 << 20

// Output runs the twillctl of the image in the container of the node's daemon, and returns what it prints to its standard output. When the command ends with
// another exit code than 0, there is an error beside what it printed.
func (c *Cluster) Output(ctx context.Context, n Node, args ...string) ([]byte, error) {
	conn, err := c.run(ctx, n, args...)
	if err != nil {
		return nil, err
	}
	defer conn.Close() // the command has ended, or is not waited for
	return io.ReadAll(io.LimitReader(conn, maxOutput))
}

// run runs twillctl in the container of the node's daemon.
func (c *Cluster) run(ctx context.Context, n Node, args ...string) (net.Conn, error) {
	if !n.Running {
		return nil, fmt.Errorf("the daemon's pod %s/%s does not run: `kubectl -n %s describe pod %s` says why", n.Namespace, n.Pod, n.Namespace, n.Pod)
	}
	return c.exec(ctx, n.Namespace, n.Pod, container, append([]string{"twillctl"}, args...)...)
}

// exec runs a command in a container. The connection is its standard input and output, and lasts until it is closed or ctx ends.
func (c *Cluster) exec(ctx context.Context, namespace, pod, container string, command ...string) (net.Conn, error) {
	exec, err := c.executor(namespace, pod, &corev1.PodExecOptions{Container: container, Command: command, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		return nil, fmt.Errorf("pod %s/%s: %w", namespace, pod, err)
	}
	ours, theirs := net.Pipe()
	conn := &stream{Conn: ours, pod: namespace + "/" + pod}
	// Of a stream that is closed, client-go writes to standard error that it is. What matters is the error of the stream.
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, logr.Discard()))
	conn.cancel = cancel
	go func() {
		var said lines
		err := exec.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: theirs, Stdout: theirs, Stderr: &said})
		conn.end(err, said.String())
		_ = theirs.Close() // ours reads its end from it
	}()
	return conn, nil
}

// executor uses a WebSocket, which API servers speak since Kubernetes 1.30 (KEP-4006).
func (c *Cluster) executor(namespace, pod string, options *corev1.PodExecOptions) (remotecommand.Executor, error) {
	request := c.core.RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").VersionedParams(options, scheme.ParameterCodec)
	return remotecommand.NewWebSocketExecutor(c.config, http.MethodGet, request.URL().String())
}

// stream is a connection whose far end is a process.
type stream struct {
	net.Conn
	pod    string
	cancel context.CancelFunc
	ended  error // why the process ended; set before the pipe is closed
}

func (s *stream) end(err error, said string) {
	switch said = strings.TrimSpace(said); {
	case said != "":
		s.ended = fmt.Errorf("pod %s: %s", s.pod, said)
	case err != nil && !errors.Is(err, context.Canceled):
		s.ended = fmt.Errorf("exec into pod %s: %w", s.pod, err)
	}
}

// Read says why the process ended when there is nothing more to be read from it.
func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if errors.Is(err, io.EOF) && s.ended != nil {
		err = s.ended
	}
	return n, err
}

func (s *stream) Close() error {
	s.cancel()
	return s.Conn.Close()
}

// lines keeps the first of what a process says on its standard error.
type lines struct{ b bytes.Buffer }

func (l *lines) Write(p []byte) (int, error) {
	const room = 4 << 10
	l.b.Write(p[:min(len(p), room-min(room, l.b.Len()))])
	return len(p), nil
}

func (l *lines) String() string { return l.b.String() }
