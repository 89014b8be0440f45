package tsh

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// proxyCmd is "tsh proxy", whose one subcommand is the ProxyCommand of tsh config. SSH runs end to end
// between the other program and the node; tsh only carries its bytes.
func (a *app) proxyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "proxy", Short: "Connect other programs to nodes", GroupID: everyday}
	cmd.AddCommand(&cobra.Command{
		Use:               "ssh NODE[.CLUSTER]",
		Short:             "Connect standard input and output to a node's SSH server (for ProxyCommand)",
		Args:              argCount(1, 1, "one node"),
		ValidArgsFunction: a.completeNode("", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := nodeName(args[0])
			if err != nil {
				return err
			}
			return a.pipe(cmd.Context(), name)
		},
	})
	return cmd
}

// pipe connects standard input and output to the node. It returns when the node has closed its side, whether
// or not standard input has ended.
func (a *app) pipe(ctx context.Context, name string) error {
	prof, err := a.currentLogin()
	if err != nil {
		return err
	}
	conn, err := a.dialNode(ctx, prof, name)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var closing sync.Once
	closeConn := func() { closing.Do(func() { _ = conn.Close() }) }
	defer closeConn()
	// Reading standard input cannot be interrupted, so nobody waits for this goroutine: it ends with the
	// input or with the process.
	go func() {
		_, err := io.Copy(conn, a.Stdin)
		if err == nil {
			err = conn.CloseWrite()
		}
		if err != nil {
			closeConn()
		}
	}()
	_, err = io.Copy(a.Stdout, conn)
	switch {
	case ctx.Err() != nil:
		return context.Canceled
	case conn.refused() != nil:
		whole, err := a.resolveAfterRefusal(ctx, prof, name, conn.refused())
		if err == nil { // OpenSSH has to know the whole name, because the host certificate has it
			msg := "there is no node " + name
			hint := "its whole name is " + whole + "; use " + whole + "." + prof.Cluster
			err = fault.New(fault.NotFound, "", msg, hint)
		}
		return err
	case err != nil && !errors.Is(err, io.EOF):
		reason := terminal.Clean(fault.DescribeNetwork(err))
		msg := "the connection to node " + name + " was interrupted: " + reason
		return fault.Wrap(err, fault.Unavailable, "", msg, "connect again")
	}
	return nil
}
