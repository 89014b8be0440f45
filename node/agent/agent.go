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

// Main runs the program threshold-node and returns its exit status: 0 after success and after a clean stop, 1
// after a fault, 2 for a wrong command line. args are the words after the program's name. Without --check,
// --version or -h it serves until ctx ends. The log and messages about faults go to stderr.
func Main(ctx context.Context, version string, args []string, stdout, stderr io.Writer) int {
	opts, err := parseFlags(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	case err == nil && opts.showVersion:
		fmt.Fprintln(stdout, "threshold-node", version)
		return 0
	}
	if err = opts.log.Validate(); err == nil {
		err = run(ctx, version, &opts, stdout, stderr)
	}
	if err == nil {
		return 0
	}
	opts.log.Report(stderr, "threshold-node", err)
	return 1
}

// run combines the flags with the configuration file and the environment, checks all of it, and serves until
// ctx ends. With --check it only prints that the configuration is right. It sets opts.file to the file that
// it reads, and opts.log to the level and format of that file where flags set none: Main then reports the
// error in this format. The error is a fault.
func run(ctx context.Context, version string, opts *options, stdout, stderr io.Writer) error {
	opts.setDefaultFile(defaultFile)
	fileSpec, err := readFile(opts.file)
	if err != nil {
		return err
	}
	opts.log = opts.log.WithDefaults(fileSpec.Log)
	log := opts.log.Logger(stderr)
	cfg, err := opts.nodeConfig(fileSpec, os.LookupEnv)
	if err != nil {
		return err
	}
	cfg.Version, cfg.Log = version, log
	n, err := node.New(cfg)
	if err != nil {
		return err
	}
	if opts.check {
		source := cmp.Or(opts.file, "the command line")
		fmt.Fprintf(stdout, "%s: ok, dials %s\n", source, strings.Join(cfg.Proxies, ", "))
		return nil
	}
	if opts.token != "" {
		log.Warn("the join token is on the command line, where other users of this machine can read it",
			"remedy", "use --token-file FILE or "+tokenVariable)
	}
	if egress.HasPassword(opts.httpsProxy) {
		log.Warn("the password of the HTTP proxy is on the command line, "+
			"where other users of this machine can read it",
			"remedy", "write https_proxy in the configuration file")
	}
	_ = os.Unsetenv(tokenVariable) // so that no process that this one starts gets the token
	return serve(ctx, n, fileSpec, log)
}
