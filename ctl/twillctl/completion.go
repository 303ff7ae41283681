package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/store"
)

// completionPatience is for how long a shell waits for names. A person who waits longer thinks that the terminal hangs.
const completionPatience = time.Second

// completion yields the words that an argument or a flag could be.
type completion = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective)

// names makes a completion of what list finds. Where it fails or takes long there are no words, and no error: a shell shows it amid what is typed.
func names(list func(ctx context.Context) []string) completion {
	return func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
		defer cancel()
		found := make(chan []string, 1)
		go func() { found <- list(ctx) }()
		select {
		case all := <-found:
			all = slices.DeleteFunc(all, func(name string) bool { return name == "" || len(name) < len(typed) || name[:len(typed)] != typed })
			slices.Sort(all)
			return slices.Compact(all), cobra.ShellCompDirectiveNoFileComp
		case <-ctx.Done():
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
	}
}

// completeFirst completes the first argument.
func completeFirst(list func(ctx context.Context) []string) completion { return completeUpTo(1, list) }

// completeUpTo completes so many arguments.
func completeUpTo(most int, list func(ctx context.Context) []string) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(list)(cmd, args, typed)
	}
}

// ask asks the nodes that the flags say, and returns all that those who answer say.
func (f *viewpoints) ask(ctx context.Context, of func(context.Context, viewpoint) []string) []string {
	views, err := f.open(ctx)
	if err != nil {
		return nil
	}
	answers, _ := askAll(ctx, views, func(ctx context.Context, v viewpoint) ([]string, error) { return of(ctx, v), nil })
	return slices.Concat(answers...)
}

// nodeNames are the names of the cluster's nodes, as the first of those to be asked that answers knows them.
func (f *viewpoints) nodeNames(ctx context.Context) []string {
	views, err := f.open(ctx)
	if err != nil {
		return nil
	}
	var all []string
	for _, v := range views {
		all = append(all, v.node)
	}
	listing, _ := firstListing(ctx, views, store.WithNames)
	for _, n := range listing.Nodes {
		all = append(all, n.Name)
	}
	return all
}

// podNames are the pods of the nodes that are asked, as NAMESPACE/NAME.
func (f *viewpoints) podNames(ctx context.Context) []string {
	return f.ask(ctx, func(ctx context.Context, v viewpoint) []string {
		pods, err := v.client.TracePods(ctx)
		if err != nil {
			return nil
		}
		var all []string
		for _, p := range pods {
			all = append(all, p.Name)
		}
		return all
	})
}

// serviceNames are the Services that the node which is asked serves, as NAMESPACE/NAME.
func (f *daemonFlags) serviceNames(ctx context.Context) []string {
	client, err := f.client()
	if err != nil {
		return nil
	}
	report, err := client.Services(ctx, store.ObjectName{})
	if err != nil {
		return nil
	}
	var all []string
	for _, s := range report.Services {
		all = append(all, s.Namespace+"/"+s.Name)
	}
	return all
}

// labNames are those of the labs below stateDir.
func labNames(stateDir *string) func(context.Context) []string {
	return func(context.Context) []string {
		labs, err := lab.List(*stateDir)
		if err != nil {
			return nil
		}
		var all []string
		for _, l := range labs {
			all = append(all, l.Name)
		}
		return all
	}
}

// labNodes are the nodes of the lab that the options name.
func labNodes(options *lab.Options) func(context.Context) []string {
	return func(context.Context) []string {
		l, err := lab.Open(*options)
		if err != nil {
			return nil
		}
		var all []string
		for _, n := range l.Nodes() {
			all = append(all, n.Name)
		}
		return all
	}
}

// completeFlag has a flag's values completed. The flag exists.
func completeFlag(cmd *cobra.Command, flag string, words completion) {
	if err := cmd.RegisterFlagCompletionFunc(flag, words); err != nil {
		panic(err) // the program names a flag that it has not
	}
}
