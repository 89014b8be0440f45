package agent

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/threshold-access/threshold/internal/daemon"
	"github.com/threshold-access/threshold/internal/identity"
)

const usage = `threshold-node makes this machine reachable through a Threshold cluster. It opens no port.

  threshold-node --proxy HOST:PORT --token-file FILE  the first start: joins with a token of an administrator
  threshold-node --proxy HOST:PORT                    every later start
  threshold-node --config FILE                        the same, configured by a file
  threshold-node --check                              reports every fault in all that, and starts nothing

Without --config and --proxy it reads /etc/threshold/node.yaml, if there is one.
The token may also be in the environment variable THRESHOLD_TOKEN.
A second signal ends the agent at once, without waiting for sessions.

`

// errUsage is the error for a wrong command line. What is wrong was written to stderr already.
var errUsage = errors.New("usage")

// options has the values of the flags. The zero value of a field means that the flag was not given.
type options struct {
	file        string // of --config; run sets it to the default file if that is used
	proxies     listFlag
	token       string
	tokenFile   string
	data        string
	name        string
	labels      labelFlag
	httpsProxy  string
	log         daemon.Log
	check       bool
	showVersion bool
}

// listFlag is a flag that may be given several times, or with several values separated by commas.
type listFlag []string

func (l *listFlag) String() string { return strings.Join(*l, ",") }

func (l *listFlag) Set(s string) error {
	for value := range strings.SplitSeq(s, ",") {
		if value = strings.TrimSpace(value); value == "" {
			return errors.New("is empty")
		}
		*l = append(*l, value)
	}
	return nil
}

// labelFlag is a flag KEY=VALUE that may be given several times.
type labelFlag map[string]string

func (l labelFlag) String() string { return "" }

func (l labelFlag) Set(s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("must be key=value")
	}
	if err := (identity.Labels{key: value}).CheckSelf(); err != nil {
		return err
	}
	l[key] = value
	return nil
}

// parseFlags parses the command line. The error is flag.ErrHelp if the help was asked for, or errUsage if the
// command line is wrong; the help or what is wrong has been written to stderr then. The word "version" alone
// means the same as --version.
func parseFlags(args []string, stderr io.Writer) (options, error) {
	opts := options{labels: labelFlag{}}
	flags := flag.NewFlagSet("threshold-node", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // after an error, Parse would write the whole help
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage); flags.PrintDefaults() }
	flags.StringVar(&opts.file, "config", "", "read the configuration `FILE`; flags override it")
	flags.Var(&opts.proxies, "proxy", "`HOST:PORT` of the cluster's public port; may be repeated")
	flags.StringVar(&opts.token, "token", "",
		"the join `TOKEN`; other users can read it in ps, so prefer --token-file")
	flags.StringVar(&opts.tokenFile, "token-file", "", "read the join token from `FILE`")
	flags.StringVar(&opts.data, "data", "",
		"keep keys in `DIR` (default "+systemDataDir+", or the user's own state directory)")
	flags.StringVar(&opts.name, "name", "", "request this `NAME` (default this machine's host name)")
	flags.Var(opts.labels, "label",
		"a label `self.KEY=VALUE` that this machine gives itself; may be repeated")
	flags.StringVar(&opts.httpsProxy, "https-proxy", "",
		"the `URL` of an HTTP proxy on the way to the cluster (default $HTTPS_PROXY);\n"+
			"if it contains a password, write it in the file")
	flags.StringVar(&opts.log.Level, "log-level", "",
		"`LEVEL` of the log: debug, info, warn or error (default info)")
	flags.StringVar(&opts.log.Format, "log-format", "", "`FORMAT` of the log: text or json (default text)")
	flags.BoolVar(&opts.check, "check", false,
		"report every fault in the flags and the file, and start nothing")
	flags.BoolVar(&opts.showVersion, "version", false, "print the version")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(stderr)
		flags.Usage()
		return opts, err
	case err == nil && flags.NArg() == 1 && flags.Arg(0) == "version":
		opts.showVersion = true
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(stderr, "threshold-node: error: %v\nthreshold-node: hint: run: threshold-node -h\n", err)
		return opts, errUsage
	}
	return opts, nil
}

// setDefaultFile makes defaultFile the configuration file if it exists and the flags name neither a file nor
// a proxy.
func (o *options) setDefaultFile(defaultFile string) {
	if o.file != "" || len(o.proxies) > 0 {
		return
	}
	if _, err := os.Stat(defaultFile); err == nil {
		o.file = defaultFile
	}
}
