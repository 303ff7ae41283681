package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/twill-cni/twill/ctl/connectivity"
	"github.com/twill-cni/twill/ctl/lab"
)

// progress shows how far "lab up" or "connectivity" is: a line for each stage. On a terminal the line counts up while the stage lasts; elsewhere it is
// printed at its end.
type progress struct {
	w        io.Writer
	began    time.Time
	terminal bool
	open     bool // the terminal's last line is not finished
}

func newProgress(w io.Writer, began time.Time) *progress {
	return &progress{w: w, began: began, terminal: isTerminal(w)}
}

func (p *progress) show(now lab.Progress) {
	done := now.Done == now.Total
	if !done && !p.terminal {
		return
	}
	p.line(fmt.Sprintf("%6s  %-8s %d/%d", seconds(p.began), now.Stage, now.Done, now.Total), done)
}

// line prints the terminal's last line anew; when it is done, the next begins below it.
func (p *progress) line(line string, done bool) {
	if p.terminal {
		line = "\r\x1b[K" + line
	}
	if done {
		line += "\n"
	}
	p.open = !done
	fmt.Fprint(p.w, line)
}

// bar shows how many of a number of questions were asked, on a terminal as a bar that grows.
func (p *progress) bar(now connectivity.Progress) {
	done := now.Done == now.Total
	if !done && !p.terminal {
		return
	}
	const width = 40
	full := width * now.Done / max(now.Total, 1)
	line := fmt.Sprintf("%6s  [%s%s] %d/%d", seconds(p.began), strings.Repeat("#", full), strings.Repeat(".", width-full), now.Done, now.Total)
	if now.Failed > 0 {
		line += fmt.Sprintf(", %d failed", now.Failed)
	}
	if !done {
		line += "  " + string(now.Kind)
	}
	p.line(line, done)
}

// finish ends a line that a failure left unfinished.
func (p *progress) finish() {
	if p.open {
		fmt.Fprintln(p.w)
		p.open = false
	}
}
