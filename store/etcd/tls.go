package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"
)

// tlsCredentials do the TLS handshake of each connection with the certificates that the files hold at that time.
type tlsCredentials struct {
	credentials.TransportCredentials // for Info; replaced in each handshake
	caFile, certFile, keyFile        string
}

// newTLSCredentials fails when the files cannot be used now.
func newTLSCredentials(c Config) (credentials.TransportCredentials, error) {
	t := &tlsCredentials{caFile: c.CAFile, certFile: c.CertFile, keyFile: c.KeyFile}
	config, err := t.load()
	if err != nil {
		return nil, err
	}
	t.TransportCredentials = credentials.NewTLS(config)
	return t, nil
}

func (t *tlsCredentials) load() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.caFile != "" {
		pem, err := os.ReadFile(t.caFile)
		if err != nil {
			return nil, fmt.Errorf("read the CA of etcd: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the CA of etcd: %s holds no certificate", t.caFile)
		}
	}
	if t.certFile != "" {
		cert, err := tls.LoadX509KeyPair(t.certFile, t.keyFile)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate for etcd from %s and %s: %w", t.certFile, t.keyFile, err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	return config, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (t *tlsCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, err := t.load()
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
}

// Clone implements credentials.TransportCredentials.
func (t *tlsCredentials) Clone() credentials.TransportCredentials {
	c := *t
	c.TransportCredentials = t.TransportCredentials.Clone()
	return &c
}
