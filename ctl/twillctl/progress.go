package main

import (
	"fmt"
	"io"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

// progress shows how far "lab up" is: a line for each stage. On a terminal the line counts up while the stage lasts; elsewhere it is
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
	line := fmt.Sprintf("%6s  %-8s %d/%d", seconds(p.began), now.Stage, now.Done, now.Total)
	if p.terminal {
		line = "\r\x1b[K" + line
	}
	if done {
		line += "\n"
	}
	p.open = !done
	fmt.Fprint(p.w, line)
}

// finish ends a line that a failure left unfinished.
func (p *progress) finish() {
	if p.open {
		fmt.Fprintln(p.w)
		p.open = false
	}
}
