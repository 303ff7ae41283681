package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the build.
var version = "dev"

func main() {
	os.Exit(start())
}

func start() int {
	// SIGHUP: the terminal was closed. What is under way is undone, whichever of them comes.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// Without a reader of the output ("twillctl ... | head"), a write fails and the command ends in good order, cleaning up; the default
	// is to die at once. Nothing is ever read from the channel.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return run(ctx, os.Args[1:], streams{out: os.Stdout, err: os.Stderr})
}

// streams is where commands print.
type streams struct{ out, err io.Writer }

// errFailed says that the command has printed why it failed.
var errFailed = errors.New("failed")

// run runs one command line and returns its exit code: 0, or 1 when anything went wrong, unless an exitError says another.
func run(ctx context.Context, args []string, to streams) int {
	root := newRoot(to)
	root.SetArgs(args)
	root.SetOut(to.out)
	root.SetErr(to.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil {
		fmt.Fprintf(to.err, "twillctl: %v\n", context.Cause(ctx))
	}
	if !errors.Is(err, errFailed) {
		fmt.Fprintf(to.err, "twillctl: %v\n", err)
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	return 1
}
