package main

import (
	"context"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/twill-cni/twill/ctl/lab"
)

// frr is a running zebra and bgpd.
type frr struct {
	dir  string
	bgpd *speaker
}

// frrDirectory is where Debian has the daemons.
const frrDirectory = "/usr/lib/frr"

// startFRR starts FRR on a machine with a configuration for bgpd.
func startFRR(ctx context.Context, on *lab.Node, conf string) (*frr, error) {
	dir, err := os.MkdirTemp("/run", "frr-")
	if err != nil {
		return nil, err
	}
	f := &frr{dir: dir}
	for name, text := range map[string]string{"zebra": "", "bgpd": conf} {
		if err := os.WriteFile(filepath.Join(dir, name+".conf"), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	if err := giveToFRR(dir); err != nil {
		return nil, err
	}
	for _, name := range []string{"zebra", "bgpd"} {
		f.bgpd, err = launch(ctx, on, filepath.Join(frrDirectory, name), "-f", filepath.Join(dir, name+".conf"), "-i", filepath.Join(dir, name+".pid"),
			"-z", filepath.Join(dir, "zserv.api"), "--vty_socket", dir, "-P", "0", "--log", "stdout", "--log-level", "debugging")
		if err != nil {
			return nil, err
		}
		err := eventually(ctx, name+"'s answer", func() (bool, error) {
			return exec.Command("vtysh", "--vty_socket", dir, "-d", name, "-c", "show version").Run() == nil, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return f, nil
}

// giveToFRR makes the user that the daemons become the owner of a directory.
func giveToFRR(dir string) error {
	u, err := user.Lookup("frr")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return os.Chown(dir, uid, gid)
}

// withdrawn returns how many prefixes UPDATE messages have withdrawn so far. Prefixes that went with their session are not among them. bgpd
// has to be configured with `debug bgp updates in`.
func (f *frr) withdrawn() int { return strings.Count(f.bgpd.output(), "-- withdrawn") }
