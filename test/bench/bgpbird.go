package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

// speaker is a running program of others that speaks BGP, with what it printed.
type speaker struct {
	cmd *lab.Cmd

	mu  sync.Mutex
	out bytes.Buffer
}

// launch starts a program on a machine. The end of the sandbox ends it at the latest.
func launch(ctx context.Context, on *lab.Node, name string, args ...string) (*speaker, error) {
	p := &speaker{cmd: on.Command(ctx, name, args...)}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", name, on.Name, err)
	}
	return p, nil
}

func (p *speaker) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *speaker) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func (p *speaker) pid() int { return p.cmd.Process.Pid }

func (p *speaker) kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	_ = p.cmd.Wait()         // its status says that it was killed
}

// bird is a running BIRD 2.
type bird struct {
	*speaker
	socket string
}

// birdHead begins every configuration. Without `protocol device` no interface is known.
const birdHead = "log stderr { warning, error, fatal, bug };\nprotocol device { }\n"

// startBIRD starts bird on a machine and waits until it answers.
func startBIRD(ctx context.Context, on *lab.Node, conf string) (*bird, error) {
	dir, err := os.MkdirTemp("/run", "bird-")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "bird.conf")
	if err := os.WriteFile(file, []byte(birdHead+conf), 0o600); err != nil {
		return nil, err
	}
	b := &bird{socket: filepath.Join(dir, "ctl")}
	if b.speaker, err = launch(ctx, on, "bird", "-f", "-c", file, "-s", b.socket, "-P", filepath.Join(dir, "pid")); err != nil {
		return nil, err
	}
	err = eventually(ctx, "bird's answer", func() (bool, error) {
		_, err := b.do("show status")
		return err == nil, nil
	})
	if err != nil {
		b.kill()
		return nil, fmt.Errorf("%w: %s", err, b.output())
	}
	return b, nil
}

// do gives BIRD a command and returns its answer. Lines of an answer bear a number of four digits; the last line's is followed by a
// blank, and numbers from 8000 on are errors.
func (b *bird) do(command string) (string, error) {
	conn, err := net.Dial("unix", b.socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	lines.Scan() // the welcome
	if _, err := fmt.Fprintln(conn, command); err != nil {
		return "", err
	}
	var answer strings.Builder
	for lines.Scan() {
		line := lines.Text()
		fmt.Fprintln(&answer, line)
		if len(line) > 4 && line[0] != ' ' && line[4] == ' ' {
			if line[0] >= '8' {
				return "", fmt.Errorf("bird refuses %q: %s", command, line[5:])
			}
			return answer.String(), nil
		}
	}
	return "", fmt.Errorf("bird does not answer %q: %w", command, lines.Err())
}

// established waits until so many of its sessions are up.
func (b *bird) established(ctx context.Context, sessions int) error {
	last := ""
	err := eventually(ctx, fmt.Sprintf("%d sessions of bird", sessions), func() (ok bool, err error) {
		last, err = b.do("show protocols")
		return strings.Count(last, "Established") >= sessions, err
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, last)
	}
	return nil
}

// establishedAt waits until one of its sessions is up and returns since when. The configuration has `timeformat protocol iso long us`.
func (b *bird) establishedAt(protocol string) (time.Time, error) {
	var since time.Time
	err := eventually(context.Background(), "the session "+protocol, func() (bool, error) {
		text, err := b.do("show protocols " + protocol)
		if err != nil || !strings.Contains(text, "Established") {
			return false, err
		}
		line, _, _ := strings.Cut(text[strings.Index(text, protocol):], "\n") // name, protocol, table, state, date, time, info
		fields := strings.Fields(line)
		if len(fields) < 6 {
			return false, fmt.Errorf("bird says %q", line)
		}
		since, err = time.ParseInLocation("2006-01-02 15:04:05.999999", fields[4]+" "+fields[5], time.Local)
		return err == nil, err
	})
	return since, err
}
