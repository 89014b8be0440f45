package tsh

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
)

func (a *app) proxyCmd() *cobra.Command {
	c := &cobra.Command{Use: "proxy", Short: "Connect other programs to nodes", GroupID: everyday}
	c.AddCommand(&cobra.Command{
		Use:               "ssh NODE[.CLUSTER]",
		Short:             "Copy standard input and output to a node's SSH service, as OpenSSH's ProxyCommand",
		Args:              needs(1, 1, "one node"),
		ValidArgsFunction: a.completeNode("", true),
		RunE: func(c *cobra.Command, args []string) error {
			name, err := nodeName(args[0])
			if err != nil {
				return err
			}
			return a.pipe(c.Context(), name)
		},
	})
	return c
}

// pipe joins standard input and output to the node. It ends when the node has said its last, whatever input
// may still come.
func (a *app) pipe(ctx context.Context, name string) error {
	p, err := a.currentLogin()
	if err != nil {
		return err
	}
	conn, err := a.dialNode(ctx, p, name)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var closing sync.Once
	defer closing.Do(func() { _ = conn.Close() })
	go func() { // reading standard input cannot be interrupted: this ends with the input, or with the process
		_, err := io.Copy(conn, a.Stdin)
		if err == nil {
			err = conn.CloseWrite()
		}
		if err != nil {
			closing.Do(func() { _ = conn.Close() })
		}
	}()
	_, err = io.Copy(a.Stdout, conn)
	switch {
	case ctx.Err() != nil:
		return context.Canceled
	case conn.refused() != nil:
		n, why := a.resolveAfterRefusal(ctx, p, name, conn.refused())
		if why == nil {
			why = fault.New(
				fault.NotFound,
				"",
				"there is no node "+name,
				"its whole name is "+n+"; use "+n+"."+p.Cluster,
			)
		}
		return why
	case err != nil && !errors.Is(err, io.EOF):
		return fault.Wrap(
			err,
			fault.Unavailable,
			"",
			"the connection to node "+name+" broke off: "+clean(fault.DescribeNetwork(err)),
			"connect again",
		)
	}
	return nil
}
