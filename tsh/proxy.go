package tsh

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/sshclient"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// proxyCmd is "tsh proxy". Its one subcommand, "tsh proxy ssh", is the ProxyCommand that tsh config prints.
// SSH runs end to end between the program that starts it, such as ssh, and the node; tsh only copies the
// bytes.
func (a *app) proxyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "proxy", Short: "Connect other programs to nodes", GroupID: everyday}
	cmd.AddCommand(&cobra.Command{
		Use:               "ssh NODE[.CLUSTER]",
		Short:             "Connect standard input and output to a node's SSH server (for ProxyCommand)",
		Args:              argCount(1, 1, "one node"),
		ValidArgsFunction: a.completeNode,
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

// pipe connects standard input and output to the SSH server of the node with this name. It returns nil when
// the node has closed its side, whether or not standard input has ended. If the proxy refuses, it returns the
// proxy's fault or a better one of the auth service: for a first label, a NotFound fault with the whole name.
// If the node is locked, it returns a Denied fault before the handshake with the node is complete. If the
// connection breaks, it returns an Unavailable fault, and if ctx ends, context.Canceled.
func (a *app) pipe(ctx context.Context, name string) error {
	prof, err := a.currentLogin()
	if err != nil {
		return err
	}
	conn, err := a.dialNode(ctx, prof, name, nil) // of the program that starts tsh, nothing is known
	if err != nil {
		return err
	}
	closeConn := sync.OnceFunc(func() { _ = conn.Close() })
	defer closeConn()
	stop := context.AfterFunc(ctx, closeConn)
	defer stop()
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
	check := func(id identity.MachineID) error { return conn.locks.checkNode(name, id) }
	_, err = io.Copy(a.Stdout, &watchedConn{nodeConn: conn, watch: sshclient.NewHostWatch(check)})
	switch {
	case ctx.Err() != nil:
		return context.Canceled
	case conn.refused() != nil:
		wholeName, err := a.resolveAfterRefusal(ctx, prof, name, conn.refused())
		if err != nil {
			return err
		}
		// tsh cannot connect to wholeName instead: OpenSSH compares the name that the user typed with the
		// host certificate, which has the whole name.
		return nodeNameNotWhole.New("", fault.Args{
			"node":       name,
			"whole_name": wholeName,
			"cluster":    prof.Cluster,
		})
	case fault.CodeOf(err) != "": // of watchedConn
		return err
	case err != nil && !errors.Is(err, io.EOF):
		reason := terminal.Clean(fault.DescribeNetwork(err))
		return nodeConnectionInterrupted.Wrap(err, "", fault.Args{"node": name, "why": reason})
	}
	return nil
}

// watchedConn reads from a node for a program that verifies the node itself, and refuses a locked node.
type watchedConn struct {
	*nodeConn
	watch *sshclient.HostWatch
}

// Read looks at the handshake only if there are any locks. The first Read of nodeConn has taken the newest.
func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.nodeConn.Read(b)
	if c.locks.current().Empty() {
		return n, err
	}
	if denied := c.watch.Read(b[:n]); denied != nil {
		return 0, denied
	}
	return n, err
}
