package kubetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// Cluster is a Kubernetes API that runs. Its methods may be called concurrently, except Kill, Restart and Close.
type Cluster struct {
	options Options
	dir     string
	ca      *authority
	admin   *http.Client
	kinds   kinds
	files   atomic.Int64 // kubeconfigs so far

	etcd, server           *process
	controllers, scheduler *process
}

// Launch starts a cluster and waits until its API can be used: it is ready, its own namespaces exist and a Service gets a ClusterIP.
// When it fails, nothing is left.
func Launch(ctx context.Context, options Options) (*Cluster, error) {
	options, err := options.complete()
	if err != nil {
		return nil, fmt.Errorf("launch a cluster: %w", err)
	}
	sweep()
	dir, err := os.MkdirTemp("", clusterPrefix+owner()+"-") // short, since etcd's socket is in it: unix(7) allows 107 bytes
	if err != nil {
		return nil, fmt.Errorf("launch a cluster: %w", err)
	}
	c := &Cluster{options: options, dir: dir}
	err = c.makeIdentities()
	if err == nil {
		err = c.startEtcd(ctx)
	}
	if err == nil {
		err = c.startServer(ctx)
	}
	if err == nil && options.Controllers != nil {
		err = c.startControllers(ctx)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("launch a cluster: %w", err)
	}
	return c, nil
}

// Close ends all processes and removes all files.
func (c *Cluster) Close() {
	c.KillControllers()
	c.server.kill()
	c.etcd.kill()
	if c.admin != nil {
		c.admin.CloseIdleConnections()
	}
	_ = os.RemoveAll(c.dir) // what is left of a directory for temporary files harms nobody
}

// Kill ends kube-apiserver at once, as a power cut would, and waits until its process is gone. etcd goes on. Restart starts it again.
func (c *Cluster) Kill() {
	c.server.kill()
	c.admin.CloseIdleConnections()
}

// Restart kills kube-apiserver if it runs, starts it on the data that it had, and waits until its API can be used.
func (c *Cluster) Restart(ctx context.Context) error {
	c.Kill()
	if err := c.startServer(ctx); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	return nil
}

// URL returns the API server's address, https://ADDR:PORT.
func (c *Cluster) URL() string {
	return "https://" + netip.AddrPortFrom(c.options.Addr, c.options.Port).String()
}

// EtcdEndpoint returns where clients reach the cluster's etcd, in which kube-apiserver keeps objects below /registry. A benchmark writes
// thousands of objects there within seconds; the API server reads them as it reads what another API server writes.
func (c *Cluster) EtcdEndpoint() string { return "unix://" + filepath.Join(c.dir, "etcd.sock") }

// PID returns the process ID of kube-apiserver, for measurements.
func (c *Cluster) PID() int { return c.server.cmd.Process.Pid }

// Log returns the end of what kube-apiserver printed.
func (c *Cluster) Log() string { return tail(c.server.log) }

// Kubeconfig writes a configuration for a client that is known by this name and groups, and returns its file, which lives as long as the
// cluster. Authorization is RBAC's: the group system:masters may do everything, any other user what its bindings say. A service account is
// the user system:serviceaccount:NAMESPACE:NAME with the groups system:serviceaccounts and system:serviceaccounts:NAMESPACE.
func (c *Cluster) Kubeconfig(user string, groups ...string) (string, error) {
	client, err := c.ca.client(user, groups...)
	if err != nil {
		return "", fmt.Errorf("certify %s: %w", user, err)
	}
	file := filepath.Join(c.dir, fmt.Sprintf("kubeconfig-%d", c.files.Add(1)))
	if err := os.WriteFile(file, c.ca.kubeconfig(c.URL(), client), 0o600); err != nil {
		return "", fmt.Errorf("write the kubeconfig of %s: %w", user, err)
	}
	return file, nil
}

// Admin returns the kubeconfig file of a user who may do everything.
func (c *Cluster) Admin() string { return filepath.Join(c.dir, "admin") }

// Kubectl runs kubectl as the administrator, beside kube-apiserver, and returns what it printed. An error holds what it complained about.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	common := []string{"--kubeconfig", c.Admin(), "--cache-dir", filepath.Join(c.dir, "kubectl")}
	cmd := exec.CommandContext(ctx, filepath.Join(c.options.Programs, "kubectl"), append(common, args...)...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := inside(c.options.Namespace, cmd.Start); err != nil {
		return "", fmt.Errorf("kubectl %s: %w", strings.Join(args, " "), err)
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// makeIdentities makes the certificates, the key that signs service accounts' tokens, the administrator's kubeconfig and its client.
func (c *Cluster) makeIdentities() error {
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	c.ca = ca
	if err := c.certifyServer(); err != nil {
		return err
	}
	tokens, err := ca.client("service-accounts") // its key signs tokens; of the certificate, only the public key is used
	if err != nil {
		return fmt.Errorf("make the key of service accounts: %w", err)
	}
	admin, err := ca.client("kubetest", "system:masters")
	if err != nil {
		return fmt.Errorf("certify the administrator: %w", err)
	}
	kubelets, err := ca.client("kube-apiserver", "system:masters")
	if err != nil {
		return fmt.Errorf("certify kube-apiserver for kubelets: %w", err)
	}
	err = errors.Join(tokens.write(c.dir, "tokens"), kubelets.write(c.dir, "kubelet-client"),
		os.WriteFile(filepath.Join(c.dir, "ca.crt"), ca.pem, 0o600), os.WriteFile(c.Admin(), ca.kubeconfig(c.URL(), admin), 0o600))
	if err != nil {
		return fmt.Errorf("write certificates: %w", err)
	}
	c.admin, err = c.client(admin)
	return err
}

// certifyServer writes a new serving certificate.
func (c *Cluster) certifyServer() error {
	names := []netip.Addr{c.options.Addr}
	for _, p := range c.options.ServiceCIDRs {
		names = append(names, p.Masked().Addr().Next()) // the ClusterIP of the Service "kubernetes"
	}
	server, err := c.ca.server(names...)
	if err == nil {
		err = server.write(c.dir, "server")
	}
	if err != nil {
		return fmt.Errorf("certify kube-apiserver: %w", err)
	}
	return nil
}

// startEtcd starts etcd and waits until it listens: kube-apiserver may connect from then on, and waits for the rest itself.
func (c *Cluster) startEtcd(ctx context.Context) error {
	socket := filepath.Join(c.dir, "etcd.sock")
	etcd, err := program{path: filepath.Join(c.options.Programs, "etcd"), namespace: c.options.Namespace, dir: c.dir, args: []string{
		"--data-dir=" + filepath.Join(c.dir, "etcd"),
		"--listen-client-urls=unix://" + socket, "--advertise-client-urls=unix://" + socket,
		// It has no peers, but insists on listening for them: a relative name, since it takes no path here.
		"--listen-peer-urls=unix://peers:0", "--initial-advertise-peer-urls=unix://peers:0", "--initial-cluster=default=unix://peers:0",
		// A member without peers elects itself when the election timeout has passed: there is nobody to wait for.
		"--heartbeat-interval=10", "--election-timeout=100",
		"--unsafe-no-fsync", "--log-level=warn",
	}}.start()
	if err != nil {
		return err
	}
	c.etcd = etcd
	return etcd.await(ctx, c.options.Timeout, func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func (c *Cluster) startServer(ctx context.Context) error {
	server, err := program{path: filepath.Join(c.options.Programs, "kube-apiserver"), namespace: c.options.Namespace, dir: c.dir,
		args: append(c.serverFlags(), c.options.Args...)}.start()
	if err != nil {
		return err
	}
	c.server = server
	return server.await(ctx, c.options.Timeout, c.usable)
}

func (c *Cluster) serverFlags() []string {
	file := func(name string) string { return filepath.Join(c.dir, name) }
	flags := []string{
		"--etcd-servers=unix://" + file("etcd.sock"),
		"--bind-address=" + c.options.Addr.String(), "--advertise-address=" + c.options.Addr.String(),
		fmt.Sprintf("--secure-port=%d", c.options.Port),
		"--tls-cert-file=" + file("server.crt"), "--tls-private-key-file=" + file("server.key"), "--client-ca-file=" + file("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + file("tokens.crt"), "--service-account-signing-key-file=" + file("tokens.key"),
		"--service-cluster-ip-range=" + list(c.options.ServiceCIDRs),
		"--authorization-mode=Node,RBAC",
		"--allow-privileged=true",
		// How it reaches kubelets, for logs and exec.
		"--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate=" + file("kubelet-client.crt"), "--kubelet-client-key=" + file("kubelet-client.key"),
		// One client writes 10,000 objects; fairness among clients would make it wait.
		"--enable-priority-and-fairness=false",
	}
	if c.options.Controllers == nil {
		// They wait for a controller manager: for the service account that every Pod has, and for the end of a new Node's taint.
		flags = append(flags, "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition")
	} else {
		flags = append(flags, "--enable-admission-plugins=NodeRestriction") // what a kubelet may say of its Node and Pods
	}
	if c.options.Addr.IsLoopback() {
		flags = append(flags, "--endpoint-reconciler-type=none") // an endpoint must not be a loopback address
	}
	return flags
}

// usable returns nil when the API can be used.
func (c *Cluster) usable(ctx context.Context) error {
	if _, err := c.Do(ctx, Request{Path: "/readyz"}); err != nil {
		return err
	}
	if _, err := c.Do(ctx, Request{Path: "/api/v1/namespaces/default"}); err != nil {
		return err
	}
	var services struct {
		Status struct {
			Conditions []struct{ Type, Status string }
		}
	}
	if err := c.Get(ctx, "/apis/networking.k8s.io/v1/servicecidrs/kubernetes", &services); err != nil {
		return err
	}
	for _, condition := range services.Status.Conditions {
		if condition.Type == "Ready" && condition.Status == "True" {
			return nil
		}
	}
	return errors.New("the addresses of Services are not ready")
}
