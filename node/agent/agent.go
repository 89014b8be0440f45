// Package agent answers: what do the agent's command line and configuration file say?
//
// It is the program threshold-node without its main: it reads flags, file and environment, builds the node
// from them, and runs it beside what watches over it, the health address and the service manager.
package agent

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/node"
)

// Main is the command line of the program threshold-node. It returns the exit status: 0 after success and
// after a clean stop, 1 after a fault, 2 for a wrong command line. args are the words after the program's
// name. It serves until ctx ends.
func Main(ctx context.Context, version string, args []string, stdout, stderr io.Writer) int {
	o, err := parseFlags(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	case err == nil && o.showVersion:
		fmt.Fprintln(stdout, "threshold-node", version)
		return 0
	}
	if err = o.log.Validate(); err == nil {
		err = run(ctx, version, &o, stdout, stderr)
	}
	if err == nil {
		return 0
	}
	o.log.Report(stderr, "threshold-node", err)
	return 1
}

// run checks the whole configuration, and then serves unless only the check was asked for. It completes
// o.log, in which Main reports the error.
func run(ctx context.Context, version string, o *options, stdout, stderr io.Writer) error {
	o.setDefaultFile(defaultFile)
	s, err := readFile(o.file)
	if err != nil {
		return err
	}
	o.log = o.log.WithDefaults(s.Log)
	log := o.log.Logger(stderr)
	cfg, err := o.nodeConfig(s, os.LookupEnv)
	if err != nil {
		return err
	}
	cfg.Version, cfg.Log = version, log
	n, err := node.New(cfg)
	if err != nil {
		return err
	}
	if o.check {
		source := cmp.Or(o.file, "the command line")
		fmt.Fprintf(stdout, "%s: ok, dials %s\n", source, strings.Join(cfg.Proxies, ", "))
		return nil
	}
	if o.token != "" {
		log.Warn("the join token is on the command line, where other users of this machine can read it",
			"remedy", "use --token-file FILE or "+tokenVariable)
	}
	if egress.HasPassword(o.httpsProxy) {
		log.Warn(
			"the password of the HTTP proxy is on the command line, where other users of this machine can read it",
			"remedy", "write https_proxy in the configuration file",
		)
	}
	_ = os.Unsetenv(tokenVariable) // no process that this one starts needs it
	return serve(ctx, n, s, log)
}
