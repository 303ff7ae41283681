package main

import (
	"context"
	"sync"
	"time"
)

const (
	patience = 15 * time.Second // for how long a node may keep the others waiting
	atOnce   = 64               // nodes that are asked at the same time
)

// askAll asks all nodes, many at a time. The answers and errors are in the order of the nodes.
func askAll[T any](ctx context.Context, views []viewpoint, ask func(context.Context, viewpoint) (T, error)) ([]T, []error) {
	answers, errs := make([]T, len(views)), make([]error, len(views))
	var asking sync.WaitGroup
	free := make(chan struct{}, atOnce)
	for i, v := range views {
		free <- struct{}{}
		asking.Go(func() {
			defer func() { <-free }()
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			answers[i], errs[i] = ask(ctx, v)
		})
	}
	asking.Wait()
	return answers, errs
}
