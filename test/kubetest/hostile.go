package kubetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// What happens to control planes. None of these may be called while the cluster is used otherwise.

// Recertify gives kube-apiserver another serving certificate of the same authority, and restarts it.
func (c *Cluster) Recertify(ctx context.Context) error {
	err := c.certifyServer()
	if err == nil {
		err = c.Restart(ctx)
	}
	if err != nil {
		return fmt.Errorf("recertify: %w", err)
	}
	return nil
}

// ReplaceAuthority gives kube-apiserver a serving certificate of a new authority, which it returns as PEM, and restarts it. It goes on to believe
// the certificates of clients that the old one has issued. Kubeconfigs that were handed out name the old one; Admin's is written anew.
func (c *Cluster) ReplaceAuthority(ctx context.Context) ([]byte, error) {
	old := c.ca
	var err error
	if c.ca, err = newAuthority(); err != nil {
		return nil, err
	}
	admin, err := c.ca.client("kubetest", "system:masters")
	if err == nil {
		err = errors.Join(c.certifyServer(),
			os.WriteFile(filepath.Join(c.dir, "ca.crt"), bytes.Join([][]byte{old.pem, c.ca.pem}, []byte("\n")), 0o600),
			os.WriteFile(c.Admin(), c.ca.kubeconfig(c.URL(), admin), 0o600))
	}
	if err == nil {
		c.Kill() // the old client's connections go
		c.admin, err = c.client(admin)
	}
	if err == nil {
		err = c.Restart(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("replace the authority: %w", err)
	}
	return c.ca.pem, nil
}

// Backup stops the cluster for a moment and copies etcd's data.
func (c *Cluster) Backup(ctx context.Context) error {
	return c.withoutEtcd(ctx, func(data, backup string) error {
		return errors.Join(os.RemoveAll(backup), os.CopyFS(backup, os.DirFS(data)))
	})
}

// Restore starts the cluster on the data of the last Backup: resource versions go back, too.
func (c *Cluster) Restore(ctx context.Context) error {
	return c.withoutEtcd(ctx, func(data, backup string) error {
		return errors.Join(os.RemoveAll(data), os.CopyFS(data, os.DirFS(backup)))
	})
}

// withoutEtcd stops everything, does something with etcd's data, and starts it again.
func (c *Cluster) withoutEtcd(ctx context.Context, do func(data, backup string) error) error {
	c.Kill()
	c.etcd.kill()
	data := filepath.Join(c.dir, "etcd")
	err := do(data, data+"-backup")
	if err == nil {
		_ = os.Remove(filepath.Join(c.dir, "etcd.sock")) // that of the one that was killed; etcd removes it, too
		err = c.startEtcd(ctx)
	}
	if err == nil {
		err = c.Restart(ctx)
	}
	if err != nil {
		return fmt.Errorf("with etcd's data copied: %w", err)
	}
	return nil
}
