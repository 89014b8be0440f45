package tsh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/profile"
	"github.com/threshold-access/threshold/tsh/sshclient"
	"github.com/threshold-access/threshold/tsh/terminal"
	"github.com/threshold-access/threshold/tsh/transfer"
)

// cleanupTime is how long an interrupted transfer may take to remove its temporary file on the node. Then the
// connection is closed.
const cleanupTime = 2 * time.Second

// scpCmd is "tsh scp". It copies over SFTP, as scp does since OpenSSH 9.0.
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
		Args:              argCount(2, anyNumber, "a source and a destination"),
		ValidArgsFunction: a.completeLocation,
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
// as in ./a:b. It returns an Invalid fault for empty text and for a login or node name that is not valid.
func parseLocation(typed string) (location, error) {
	if typed == "" {
		hint := "write the name of a file, or . for the current folder"
		return location{}, copyPathEmpty.New("", fault.Args{"hint": hint})
	}
	node, path, hasColon := strings.Cut(typed, ":")
	if !hasColon || strings.Contains(node, "/") {
		return location{path: typed}, nil
	}
	dest, err := parseDestination(node, "")
	if err != nil {
		hint := "write [LOGIN@]NODE:PATH; for a file on this machine with a colon in its name, write ./"
		hint += typed
		return location{}, copyAddressInvalid.Wrap(err, "", fault.Args{
			"why":  fault.Message(err),
			"hint": hint,
		})
	}
	return location{node: &dest, path: remotePath(path)}, nil
}

// remotePath returns the path for SFTP of a path that was typed after NODE:. The node's SFTP service begins
// in the home folder, so it replaces the tilde, and an empty path, by the current folder.
func remotePath(typed string) string {
	switch {
	case typed == "" || typed == "~":
		return "."
	case strings.HasPrefix(typed, "~/"):
		return "./" + strings.TrimLeft(typed[2:], "/")
	}
	return typed
}

// parseLocations reads the arguments of scp: one or more sources, then the destination. It accepts either
// sources on nodes and a destination on this machine, or sources on this machine and a destination on a node.
// For anything else it returns an Invalid fault.
func parseLocations(args []string) (sources []location, dest location, err error) {
	last := len(args) - 1
	if dest, err = parseLocation(args[last]); err != nil {
		return nil, location{}, err
	}
	for _, arg := range args[:last] {
		source, err := parseLocation(arg)
		switch {
		case err != nil:
			return nil, location{}, err
		case source.node != nil && dest.node != nil:
			return nil, location{}, copyBetweenNodes.New("")
		case source.node == nil && dest.node == nil:
			return nil, location{}, copyWithoutNode.New("")
		}
		sources = append(sources, source)
	}
	return sources, dest, nil
}

// runSCP copies the sources to the destination, which is the last of args. It checks all arguments and the
// login before it connects. Uploads share one connection. Downloads from several nodes go one after the
// other, each with its own connection, and the first error ends the command. quiet leaves out the progress
// lines; skipped files are reported on standard error in any case. It returns an Invalid fault for wrong
// arguments, and the faults of connect and of package transfer.
func (a *app) runSCP(ctx context.Context, opts transfer.Options, quiet bool, args []string) error {
	sources, dest, err := parseLocations(args)
	if err != nil {
		return err
	}
	prof, err := a.currentLogin()
	if err != nil {
		return err
	}
	var progressTerminal *os.File // nil: no progress is shown
	if stderr, isTerminal := terminal.File(a.Stderr); isTerminal && !quiet {
		progressTerminal = stderr
	}
	progress := transfer.NewProgress(a.Stderr, progressTerminal)
	newCopier := func(files *sftp.Client) *transfer.Copier {
		return transfer.New(files, opts, progress, func(name string) {
			fmt.Fprintf(a.Stderr, "tsh: skipped %s: not a regular file\n", name)
		})
	}
	if dest.node != nil {
		return a.withSFTP(ctx, prof, *dest.node, func(files *sftp.Client) error {
			return newCopier(files).Upload(ctx, paths(sources), dest.path)
		})
	}
	mustBeDir := len(sources) > 1
	intoDir, err := isLocalDir(dest.path, mustBeDir)
	if err != nil {
		return err
	}
	for _, group := range byNode(sources) {
		err := a.withSFTP(ctx, prof, *group[0].node, func(files *sftp.Client) error {
			return newCopier(files).Download(ctx, paths(group), dest.path, intoDir)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// byNode groups locations that follow one another and are on the same node, so that they share a connection.
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

// withSFTP connects to the node, starts its SFTP service, calls fn with it, and closes the connection when fn
// has returned. It returns the errors of connect, openSFTP and fn, or context.Canceled if ctx ended while fn
// ran. When ctx ends, fn has cleanupTime to remove its temporary file on the node; then the connection is
// closed, which ends every SFTP call of fn.
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
	stop := closeAfter(ctx, client) // not at the end of ctx: fn still needs the connection
	defer stop()
	files, err := openSFTP(client)
	if err != nil {
		return err
	}
	defer files.Close()
	keepaliveCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	tasks.Go(func() { client.KeepAlive(keepaliveCtx) })
	tasks.Go(func() { a.showNewerLogins(keepaliveCtx, prof, client, false) })
	defer func() { cancel(); tasks.Wait() }()
	err = fn(files)
	if ctx.Err() != nil { // err is a consequence
		return context.Canceled
	}
	return err
}

// closeAfter closes the connection cleanupTime after ctx has ended, unless stop is called before. The caller
// must call stop once.
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

// openSFTP starts the node's SFTP service in a new session of client. Closing the result closes the session.
// If the node refuses the service, openSFTP returns a Denied fault with the node's reason. Refusals come in
// two ways: as the answer to the request, or, from a node that reads early requests, as the end of the
// session before the first SFTP message. Either way the node sends the reason on the session.
func openSFTP(client *sshclient.Client) (*sftp.Client, error) {
	session, err := client.OpenSession(nil /* no requests before it */, sshclient.SubsystemRequest("sftp"))
	var refused *sshclient.ProgramRefusedError
	if errors.As(err, &refused) {
		return nil, sftpRefusedFault(err, refused.Session)
	}
	if err != nil {
		return nil, err
	}
	files, err := sftp.NewClientPipe(
		session,
		inputCloser{session},
		sftp.UseConcurrentWrites(true),
		sftp.UseConcurrentReads(true),
		sftp.MaxConcurrentRequestsPerFile(transfer.MaxConcurrentRequests),
	)
	if err != nil {
		return nil, sftpRefusedFault(err, session)
	}
	return files, nil
}

// sftpRefusedFault is the error of a node that does not serve SFTP, with its reason. It closes the session.
func sftpRefusedFault(err error, session *sshclient.Session) error {
	refusal := session.Refusal(err)
	return transferRefused.Wrap(refusal.Err, "", fault.Args{
		"why":  refusal.Why,
		"hint": refusal.HintOr("ask an administrator for a role with the action sftp"),
	})
}

// isLocalDir reports whether path is a folder on this machine. It returns an Invalid fault if path is no
// folder although mustBeDir is true or path ends in a slash, by which the user says that it is one.
func isLocalDir(path string, mustBeDir bool) (bool, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return true, nil
	}
	if mustBeDir || strings.HasSuffix(path, "/") {
		return false, copyTargetNotFolder.New("", fault.Args{"path": path})
	}
	return false, nil
}
