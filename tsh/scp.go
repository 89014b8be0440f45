package tsh

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/profile"
	"github.com/threshold-access/threshold/tsh/sshclient"
	"github.com/threshold-access/threshold/tsh/terminal"
	"github.com/threshold-access/threshold/tsh/transfer"
)

// cleanupTime is how long an interrupted transfer may remove its temporary file on the node before the
// connection is closed.
const cleanupTime = 2 * time.Second

// scpCmd is "tsh scp". It speaks SFTP, as scp does since OpenSSH 9.0.
func (a *app) scpCmd() *cobra.Command {
	var (
		opts  transfer.Options
		quiet bool
	)
	cmd := &cobra.Command{
		Use:     "scp SOURCE… DESTINATION",
		Short:   "Copy files to or from a node",
		GroupID: everyday,
		Long: `Copy files to or from a node. A path on a node is [LOGIN@]NODE:PATH; a PATH without a leading /
is relative to the home folder there. A file gets its name when it is complete: a copy that fails leaves the
previous file unchanged.`,
		Example: `  tsh scp report.txt web-1:
  tsh scp -r ubuntu@web-1:/var/log/nginx ./logs
  tsh scp 'web-1:*.csv' .`,
		Args:              argCount(2, -1, "a source and a destination"),
		ValidArgsFunction: a.completeNode(":", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runSCP(cmd.Context(), opts, quiet, args)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.Recursive, "recursive", "r", false, "copy folders with everything in them")
	flags.BoolVarP(&opts.Preserve, "preserve", "p", false, "keep modification times and modes")
	flags.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

// location is a source or destination of a copy.
type location struct {
	node *destination // nil: this machine
	path string
}

// parseLocation reads [LOGIN@]NODE:PATH, or a path on this machine. A colon after a slash belongs to a path,
// as in ./a:b.
func parseLocation(s string) (location, error) {
	i := strings.IndexByte(s, ':')
	if s == "" {
		hint := "write the name of a file, or . for the current folder"
		return location{}, fault.New(fault.Invalid, "", "a path is empty", hint)
	}
	if i < 0 || strings.Contains(s[:i], "/") {
		return location{path: s}, nil
	}
	dest, err := parseDestination(s[:i], "")
	if err != nil {
		hint := "write [LOGIN@]NODE:PATH; for a file on this machine with a colon in its name, write ./" + s
		return location{}, fault.Wrap(err, fault.Invalid, "", fault.Message(err), hint)
	}
	return location{node: &dest, path: remotePath(s[i+1:])}, nil
}

// remotePath makes paths relative to the home folder, where the node's SFTP service begins.
func remotePath(p string) string {
	switch {
	case p == "" || p == "~":
		return "."
	case strings.HasPrefix(p, "~/"):
		return "./" + strings.TrimLeft(p[2:], "/")
	}
	return p
}

// parseLocations reads the arguments of scp: one or more sources and a destination. Either all sources are on
// nodes and the destination is on this machine, or the other way round; anything else is an error.
func parseLocations(args []string) (sources []location, to location, err error) {
	var fromHere, fromNode bool
	for i, arg := range args {
		p, err := parseLocation(arg)
		if err != nil {
			return nil, to, err
		}
		if i == len(args)-1 {
			to = p
			break
		}
		sources = append(sources, p)
		fromHere, fromNode = fromHere || p.node == nil, fromNode || p.node != nil
	}
	switch {
	case to.node != nil && fromNode:
		msg := "tsh cannot copy from one node to another: nodes do not reach each other through tsh"
		return nil, to, fault.New(fault.Invalid, "", msg, "copy to this machine first, then from here")
	case to.node == nil && fromHere:
		msg := "neither the source nor the destination is on a node"
		hint := "write [LOGIN@]NODE:PATH for the one that is on a node, or use cp"
		return nil, to, fault.New(fault.Invalid, "", msg, hint)
	}
	return sources, to, nil
}

// runSCP copies. It checks all arguments before it connects; sources on several nodes are copied one node
// after the other.
func (a *app) runSCP(ctx context.Context, opts transfer.Options, quiet bool, args []string) error {
	sources, to, err := parseLocations(args)
	if err != nil {
		return err
	}
	prof, err := a.currentLogin()
	if err != nil {
		return err
	}
	tty, isTerminal := terminal.File(a.Stderr)
	if !isTerminal || quiet {
		tty = nil
	}
	progress := transfer.NewProgress(a.Stderr, tty)
	newCopier := func(c *sftp.Client) *transfer.Copier {
		return transfer.New(c, opts, progress, func(name string) {
			fmt.Fprintf(a.Stderr, "tsh: skipped %s: not a regular file\n", name)
		})
	}
	if to.node != nil {
		return a.withSFTP(ctx, prof, *to.node, func(c *sftp.Client) error {
			return newCopier(c).Upload(ctx, paths(sources), to.path)
		})
	}
	intoDir, err := isLocalDir(to.path, len(sources) > 1)
	if err != nil {
		return err
	}
	for _, group := range byNode(sources) {
		err := a.withSFTP(ctx, prof, *group[0].node, func(c *sftp.Client) error {
			return newCopier(c).Download(ctx, paths(group), to.path, intoDir)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// byNode groups adjacent locations on the same node, so that they share a connection.
func byNode(list []location) [][]location {
	var groups [][]location
	for _, loc := range list {
		if n := len(groups); n > 0 && *groups[n-1][0].node == *loc.node {
			groups[n-1] = append(groups[n-1], loc)
			continue
		}
		groups = append(groups, []location{loc})
	}
	return groups
}

// paths returns the paths of the locations.
func paths(list []location) []string {
	out := make([]string, len(list))
	for i, loc := range list {
		out[i] = loc.path
	}
	return out
}

// withSFTP connects to the node, starts its SFTP service, calls fn with it and closes everything. It returns
// the error of fn, or context.Canceled if ctx ended. When ctx ends, fn has cleanupTime to remove its
// temporary file; then the connection is closed, which ends every call of SFTP.
func (a *app) withSFTP(
	ctx context.Context,
	prof *profile.Profile,
	dest destination,
	fn func(*sftp.Client) error,
) error {
	client, err := a.connect(ctx, prof, dest, false)
	if err != nil {
		return err
	}
	defer client.Close()
	stop := closeAfter(ctx, client)
	defer stop()
	files, err := openSFTP(client)
	if err != nil {
		return err
	}
	defer files.Close()
	keepaliveCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() { defer close(done); client.KeepAlive(keepaliveCtx) }()
	defer func() { cancel(); <-done }()
	err = fn(files)
	if ctx.Err() != nil { // whatever failed because of it
		return context.Canceled
	}
	return err
}

// closeAfter closes the connection cleanupTime after ctx has ended. The caller must call stop, which prevents
// that.
func closeAfter(ctx context.Context, client *sshclient.Client) (stop func()) {
	stopped := make(chan struct{})
	release := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(cleanupTime)
		defer timer.Stop()
		select {
		case <-timer.C:
			_ = client.Close()
		case <-stopped:
		}
	})
	return func() { release(); close(stopped) }
}

// inputCloser ends the input of the SFTP server when it is closed.
type inputCloser struct{ *sshclient.Session }

// Close sends EOF on the channel.
func (c inputCloser) Close() error { return c.CloseWrite() }

// openSFTP starts the node's SFTP service over a new session of client. Closing the result closes the
// session. A node that refuses the service writes the reason to the session's standard error: it becomes part
// of the error.
func openSFTP(client *sshclient.Client) (*sftp.Client, error) {
	s, err := client.OpenSession(nil, sshclient.SubsystemRequest("sftp"))
	if s == nil {
		return nil, err
	}
	if err == nil {
		var c *sftp.Client
		c, err = sftp.NewClientPipe(
			s,
			inputCloser{s},
			sftp.UseConcurrentWrites(true),
			sftp.UseConcurrentReads(true),
			sftp.MaxConcurrentRequestsPerFile(transfer.MaxConcurrentRequests),
		)
		if err == nil {
			return c, nil
		}
	}
	_ = s.Close()
	// The reason ends when the node closes the channel too.
	reason, _ := io.ReadAll(io.LimitReader(s.Stderr(), sshclient.MaxMessage))
	return nil, sftpRefusedFault(err, string(reason))
}

// sftpRefusedFault is the error of a node that does not serve SFTP. text is what it wrote to standard error.
func sftpRefusedFault(err error, text string) error {
	msg, hint := "the node refused the file transfer", "ask an administrator for a role with the action sftp"
	if reason, nodeHint := sshclient.ParseRefusal(text); reason != "" {
		msg += ": " + reason
		if nodeHint != "" {
			hint = nodeHint
		}
	}
	return fault.Wrap(err, fault.Denied, "", msg, hint)
}

// isLocalDir reports whether path is a folder on this machine. It is an error if it is not, and mustBeDir is
// true or the path ends in a slash.
func isLocalDir(path string, mustBeDir bool) (bool, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return true, nil
	}
	if mustBeDir || strings.HasSuffix(path, "/") {
		msg := fmt.Sprintf("%s is not a folder on this machine", path)
		return false, fault.New(fault.Invalid, "", msg, "create it first: mkdir -p "+path)
	}
	return false, nil
}
