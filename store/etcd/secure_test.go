package etcd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/twill-cni/twill/store/storetest"
)

// pki is a certificate authority that writes certificates to a directory.
type pki struct {
	h    *harness
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newPKI(h *harness) *pki {
	p := &pki{h: h, dir: filepath.Join(h.dir, "pki")}
	h.must(os.MkdirAll(p.dir, 0o700))
	p.renew()
	return p
}

// renew makes a new authority and new certificates, in the same files: ca.pem, server.pem, client.pem and their keys.
func (p *pki) renew() {
	p.cert, p.key = nil, nil
	p.cert, p.key = p.issue("ca")
	p.issue("server")
	p.issue("client")
}

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

func (p *pki) issue(name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p.h.must(err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	p.h.must(err)
	host, _, err := net.SplitHostPort(p.h.proxy.addr)
	p.h.must(err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: name == "ca", BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.ParseIP(host), net.ParseIP("127.0.0.1")},
	}
	parent, signer := p.cert, p.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	p.h.must(err)
	p.h.must(os.WriteFile(p.file(name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	raw, err := x509.MarshalECPrivateKey(key)
	p.h.must(err)
	p.h.must(os.WriteFile(p.file(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), 0o600))
	cert, err := x509.ParseCertificate(der)
	p.h.must(err)
	return cert, key
}

// tls is what the test's own client uses.
func (p *pki) tls() *tls.Config {
	cert, err := tls.LoadX509KeyPair(p.file("client.pem"), p.file("client.key"))
	p.h.must(err)
	pool := x509.NewCertPool()
	pool.AddCert(p.cert)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}
}

// newTLSHarness returns one in which both sides have certificates.
func newTLSHarness(t *testing.T) (*harness, *pki) {
	var certs *pki
	h := newHarness(t, func(h *harness) {
		certs = newPKI(h)
		h.admin.TLS = certs.tls()
		h.prepare = func(c *embed.Config) {
			c.ListenClientUrls[0].Scheme = "https"
			c.AdvertiseClientUrls = c.ListenClientUrls
			c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile = certs.file("server.pem"), certs.file("server.key")
			c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = certs.file("ca.pem"), true
		}
		h.config = func(c *Config) {
			c.Endpoints = []string{"https://" + h.proxy.addr}
			c.CAFile, c.CertFile, c.KeyFile = certs.file("ca.pem"), certs.file("client.pem"), certs.file("client.key")
		}
	})
	return h, certs
}

func TestTLS(t *testing.T) {
	h, certs := newTLSHarness(t)
	h.SetNetwork(storetest.Config4)
	s := h.open()
	name := h.register(s, 1).Lease().Key()

	for what, change := range map[string]func(*Config){
		"no client certificate": func(c *Config) { c.CertFile, c.KeyFile = "", "" },
		"system roots":          func(c *Config) { c.CAFile = "" },
		"no TLS":                func(c *Config) { *c = Config{Endpoints: []string{"http://" + h.proxy.addr}} },
	} {
		cfg := Config{RequestTimeout: time.Second}
		h.config(&cfg)
		change(&cfg)
		cfg.RequestTimeout = time.Second
		other, err := Open(cfg, h.log)
		h.must(err)
		if _, err := other.Network(h.ctx()); err == nil {
			t.Errorf("%s: etcd was reached", what)
		}
		h.must(other.Close())
	}

	// All certificates are replaced while the store is open.
	h.Stop()
	certs.renew()
	h.admin.TLS = certs.tls()
	h.Start()
	h.eventually("etcd is reached with the new certificates", func() bool { return s.Health() == nil })
	h.Delete(name)
	h.eventually("the record is back", func() bool { return h.record(name) != nil })
}

// enableAuth switches authentication on, with a user "node" that may only use the prefix, and goes on as root.
func (h *harness) enableAuth(password string) {
	h.t.Helper()
	for user, word := range map[string]string{"root": "root", "node": password} {
		_, err := h.client.UserAdd(h.ctx(), user, word)
		h.must(err)
	}
	_, err := h.client.RoleAdd(h.ctx(), "twill")
	h.must(err)
	_, err = h.client.RoleGrantPermission(h.ctx(), "twill", DefaultPrefix+"/", clientv3.GetPrefixRangeEnd(DefaultPrefix+"/"),
		clientv3.PermissionType(clientv3.PermReadWrite))
	h.must(err)
	_, err = h.client.RoleAdd(h.ctx(), "root")
	h.must(err)
	for user, role := range map[string]string{"root": "root", "node": "twill"} {
		_, err := h.client.UserGrantRole(h.ctx(), user, role)
		h.must(err)
	}
	_, err = h.client.AuthEnable(h.ctx())
	h.must(err)
	h.admin.Username, h.admin.Password = "root", "root"
	h.connect()
}

func TestPassword(t *testing.T) {
	const secret = "correct horse battery staple"
	h := newHarness(t, func(h *harness) {
		h.prepare = func(c *embed.Config) { c.AuthTokenTTL, c.BcryptCost = 1, 4 } // seconds; the least
	})
	var log lines
	h.log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.SetNetwork(storetest.Config4)
	h.enableAuth(secret)

	file := filepath.Join(h.dir, "password")
	h.must(os.WriteFile(file, []byte(secret+"\n"), 0o600))
	h.config = func(c *Config) { c.Username, c.PasswordFile = "node", file }
	s := h.open()
	r := h.register(s, 1)
	snapshots := follow(t, s)
	<-snapshots

	<-time.After(2500 * time.Millisecond) // the token expires
	r.Update(attrs(2))
	h.eventually("an update is stored after the token expired", func() bool {
		return bytes.Contains(h.record(r.Lease().Key()).Value, []byte(attrs(2).PublicIP.String()))
	})
	<-snapshots
	h.Stop()
	h.Start()
	h.eventually("health", func() bool { return s.Health() == nil })
	r.Update(attrs(3))
	if snap := <-snapshots; snap.Leases[0].PublicIP != attrs(3).PublicIP {
		t.Errorf("after a restart of etcd the watch sees %+v", snap.Leases[0])
	}

	_, err := h.client.UserChangePassword(h.ctx(), "node", "new "+secret)
	h.must(err)
	h.must(os.WriteFile(file, []byte("new "+secret), 0o600))
	r.Update(attrs(4))
	if snap := <-snapshots; snap.Leases[0].PublicIP != attrs(4).PublicIP {
		t.Errorf("after a change of the password the watch sees %+v", snap.Leases[0])
	}

	h.config = func(c *Config) { c.Username, c.Password = "node", "wrong "+secret }
	wrong := h.open()
	if _, err = wrong.Network(h.ctx()); err == nil {
		t.Error("a wrong password was accepted")
	}
	h.config = func(c *Config) {}
	if _, err := h.open().Network(h.ctx()); err == nil {
		t.Error("no password was needed")
	}
	text := log.String() + fmt.Sprintf("%v %+v %v", wrong.cfg, wrong.cfg, wrong.Health()) + fmt.Sprint(err)
	h.log.Info("config", "config", wrong.cfg)
	if strings.Contains(text+log.String(), secret) {
		t.Errorf("the password is in what was printed:\n%s", text)
	}
}

func TestPasswordWhileDown(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	h.cut()
	h.config = func(c *Config) { c.Username, c.Password = "node", "x" } // etcd without authentication ignores them
	started := time.Now()
	s := h.open()
	if d := time.Since(started); d > time.Second {
		t.Errorf("opening took %s", d)
	}
	if _, err := s.Network(h.ctx()); err == nil {
		t.Error("etcd was reached")
	}
	h.mend()
	h.eventually("etcd is reached", func() bool { _, err := s.Network(h.ctx()); return err == nil })
}
