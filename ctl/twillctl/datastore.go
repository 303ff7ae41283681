package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/store/etcd"
)

// datastoreFlags say which etcd is meant: by twilld's own flags, or by the name of a lab.
type datastoreFlags struct {
	config etcd.Config
	lab    lab.Options
}

func (f *datastoreFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.config.Endpoints, "etcd-endpoints", splitList(os.Getenv("TWILLD_ETCD_ENDPOINTS")), "etcd's endpoints, as twilld has them (env TWILLD_ETCD_ENDPOINTS)")
	for _, text := range []struct {
		to           *string
		name, usage  string
		defaultValue string
	}{
		{&f.config.Prefix, "etcd-prefix", "prefix of the cluster's keys", etcd.DefaultPrefix},
		{&f.config.CAFile, "etcd-cafile", "CA certificates of etcd, PEM", ""},
		{&f.config.CertFile, "etcd-certfile", "client certificate, PEM", ""},
		{&f.config.KeyFile, "etcd-keyfile", "key of the client certificate, PEM", ""},
		{&f.config.Username, "etcd-username", "user name", ""},
		{&f.config.PasswordFile, "etcd-password-file", "file that holds the password", ""},
	} {
		env := "TWILLD_" + strings.ToUpper(strings.ReplaceAll(text.name, "-", "_"))
		value := text.defaultValue
		if set := os.Getenv(env); set != "" {
			value = set
		}
		flags.StringVar(text.to, text.name, value, fmt.Sprintf("%s (env %s)", text.usage, env))
	}
	flags.StringVar(&f.lab.Name, "lab", "", "use the etcd of the lab with this name instead")
	flags.StringVar(&f.lab.StateDir, "state-dir", "", "directory that holds the labs (default /run/twill-lab)")
	cmd.MarkFlagsMutuallyExclusive("etcd-endpoints", "lab")
	completeFlag(cmd, "lab", names(labNames(&f.lab.StateDir)))
}

func splitList(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// open returns the store; the caller closes it.
func (f *datastoreFlags) open() (*etcd.Store, error) {
	if f.lab.Name != "" {
		l, err := lab.Open(f.lab)
		if err != nil {
			return nil, err
		}
		f.useLab(l)
	}
	return f.connect()
}

// useLab makes etcd be the lab's, which is reached from the lab's underlay.
func (f *datastoreFlags) useLab(l *lab.Lab) {
	f.config.Endpoints, f.config.Prefix = l.Etcd().Endpoints(), lab.EtcdPrefix
	f.config.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		return l.Underlay().Dial(ctx, "tcp", address)
	}
}

func (f *datastoreFlags) connect() (*etcd.Store, error) {
	if len(f.config.Endpoints) == 0 {
		return nil, errors.New("where is etcd? Say --etcd-endpoints http://HOST:2379, or --lab NAME for that of a lab")
	}
	return etcd.Open(f.config, slog.New(slog.DiscardHandler))
}

// with calls f with the store, and closes it.
func (f *datastoreFlags) with(use func(s *etcd.Store) error) error {
	s, err := f.open()
	if err != nil {
		return err
	}
	return errors.Join(use(s), s.Close())
}
