package tsh

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pkg/sftp"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/profile"
)

// scpOptions are the flags of tsh scp.
type scpOptions struct {
	recursive, preserve, quiet bool
}

func (a *app) scpCmd() *cobra.Command {
	var o scpOptions
	c := &cobra.Command{
		Use:     "scp SOURCE… DESTINATION",
		Short:   "Copy files to or from a node",
		GroupID: everyday,
		Long: `Copy files to or from a node. A place on a node is [LOGIN@]NODE:PATH; a PATH without / in front is under the home folder there.
A file appears under its name once it is whole: a copy that fails leaves what was there before.`,
		Example: `  tsh scp report.txt web-1:
  tsh scp -r ubuntu@web-1:/var/log/nginx ./logs
  tsh scp 'web-1:*.csv' .`,
		Args:              needs(2, -1, "a source and a destination"),
		ValidArgsFunction: a.completeNode(":", false),
		RunE:              func(c *cobra.Command, args []string) error { return a.runSCP(c.Context(), o, args) },
	}
	f := c.Flags()
	f.BoolVarP(&o.recursive, "recursive", "r", false, "folders with all that is in them")
	f.BoolVarP(&o.preserve, "preserve", "p", false, "keep times and modes")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no progress")
	return c
}

// place is a source or destination.
type place struct {
	on   *destinationOf // nil: this machine
	path string
}

// parseLocation reads [LOGIN@]NODE:PATH, or a path here. A colon after a slash belongs to a path, as in
// ./a:b.
func parseLocation(s string) (place, error) {
	i := strings.IndexByte(s, ':')
	if s == "" {
		return place{}, fault.New(
			fault.Invalid,
			"",
			"a path is empty",
			"write a file's name, or . for this folder",
		)
	}
	if i < 0 || strings.Contains(s[:i], "/") {
		return place{path: s}, nil
	}
	d, err := parseDestination(s[:i], "")
	if err != nil {
		return place{}, fault.Wrap(
			err,
			fault.Invalid,
			"",
			fault.Message(err),
			"write [LOGIN@]NODE:PATH; for a file here with a colon in its name, ./"+s,
		)
	}
	return place{on: &d, path: remotePath(s[i+1:])}, nil
}

// remotePath takes paths as relative to the home folder, where the node's file service begins.
func remotePath(p string) string {
	switch {
	case p == "" || p == "~":
		return "."
	case strings.HasPrefix(p, "~/"):
		return "./" + strings.TrimLeft(p[2:], "/")
	}
	return p
}

func parseLocations(args []string) (sources []place, to place, err error) {
	var here, there bool
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
		here, there = here || p.on == nil, there || p.on != nil
	}
	switch {
	case to.on != nil && there:
		return nil, to, fault.New(
			fault.Invalid,
			"",
			"copying from one node to another is not possible: nodes do not reach each other through tsh",
			"copy to this machine first, then from here",
		)
	case to.on == nil && here:
		return nil, to, fault.New(
			fault.Invalid,
			"",
			"neither source nor destination is on a node",
			"write [LOGIN@]NODE:PATH for the one on a node, or use cp",
		)
	}
	return sources, to, nil
}

func (a *app) runSCP(ctx context.Context, o scpOptions, args []string) error {
	sources, to, err := parseLocations(args)
	if err != nil {
		return err
	}
	p, err := a.currentLogin()
	if err != nil {
		return err
	}
	t := &transfer{scpOptions: o, app: a, ctx: ctx, meter: a.newMeter(o.quiet)}
	if to.on != nil {
		return a.withSFTP(
			ctx,
			p,
			*to.on,
			func(c *sftp.Client) error { t.remote = c; return t.upload(sources, to.path) },
		)
	}
	into, err := isLocalDir(to.path, len(sources) > 1)
	if err != nil {
		return err
	}
	for _, group := range byNode(sources) {
		err := a.withSFTP(
			ctx,
			p,
			*group[0].on,
			func(c *sftp.Client) error { t.remote = c; return t.download(group, to.path, into) },
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// byNode groups neighbours on one node, so that they share a connection.
func byNode(list []place) [][]place {
	var out [][]place
	for _, p := range list {
		if n := len(out); n > 0 && *out[n-1][0].on == *p.on {
			out[n-1] = append(out[n-1], p)
			continue
		}
		out = append(out, []place{p})
	}
	return out
}

// withSFTP connects to the node's file service for as long as fn runs. When ctx ends, fn is to notice within
// moments; a connection that hangs is cut.
func (a *app) withSFTP(
	ctx context.Context,
	p *profile.Profile,
	d destinationOf,
	fn func(*sftp.Client) error,
) error {
	client, err := a.connect(ctx, p, d, false)
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
	alive, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() { defer close(done); keepalive(alive, client) }()
	defer func() { cancel(); <-done }()
	err = fn(files)
	if ctx.Err() != nil {
		return context.Canceled
	}
	return err
}

// openSFTP starts the node's file service. A refusal is in the node's own words, which it writes to the
// session's standard error.
func openSFTP(client *ssh.Client) (*sftp.Client, error) {
	s, err := openSession(client, nil, subsystem("sftp"))
	if s == nil {
		return nil, err
	}
	if err == nil {
		var c *sftp.Client
		if c, err = sftp.NewClientPipe(s, input{s}, sftp.UseConcurrentWrites(true), sftp.UseConcurrentReads(true), sftp.MaxConcurrentRequestsPerFile(64)); err == nil {
			return c, nil
		}
	}
	_ = s.Close()
	said, _ := io.ReadAll(io.LimitReader(s.Stderr(), maxBanner)) // until the node closes its side too
	return nil, sftpRefused(err, string(said))
}

func sftpRefused(err error, said string) error {
	msg, hint := "the node gives no file transfer", "ask an administrator for the action sftp"
	if why, what := parseRefusal(said); why != "" {
		msg += ": " + why
		if what != "" {
			hint = what
		}
	}
	return fault.Wrap(err, fault.Denied, "", msg, hint)
}

func isLocalDir(path string, must bool) (bool, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return true, nil
	}
	if must || strings.HasSuffix(path, "/") {
		return false, fault.New(
			fault.Invalid,
			"",
			fmt.Sprintf("%s is no folder here", path),
			"make it first: mkdir -p "+path,
		)
	}
	return false, nil
}
