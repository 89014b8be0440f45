package tsh

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/output"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// Lifetime of a join token.
const (
	defaultTokenTTL = 30 * time.Minute
	minTokenTTL     = time.Second
	maxTokenTTL     = 30 * time.Minute
)

// tokenSpec is the spec of a token resource.
type tokenSpec struct {
	Kind        identity.Kind     `json:"kind"`
	Uses        int               `json:"uses,omitempty"`
	TTL         access.Duration   `json:"ttl"`
	NamePattern string            `json:"name_pattern,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"` // that the machine gets
	PublicNames []string          `json:"public_names,omitempty"`
}

// tokenFlags are the flags of "tsh token create".
type tokenFlags struct {
	kind        string
	uses        int
	ttl         time.Duration
	namePattern string
	labels      []string // KEY=VALUE
	publicNames []string
}

// tokenCmd is "tsh token". A token is a resource: "tsh token create" applies one and shows its secret, and
// "tsh get tokens" and "tsh rm token" work as for other resources.
func (a *app) tokenCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Create join tokens for machines", GroupID: admin}
	var f tokenFlags
	create := &cobra.Command{
		Use:   "create",
		Short: "Create a token by which machines can join within a short time",
		Example: "  tsh token create --label env=prod --label team=web\n" +
			"  tsh token create --uses 20 --name-pattern 'web-*'\n" +
			"  tsh token create --format=json | jq -r .token",
		Args: noArgs("leave %s out"),
	}
	format := formatFlag(create)
	create.RunE = func(cmd *cobra.Command, _ []string) error {
		resource, err := newToken(f)
		if err != nil {
			return err
		}
		if *format == output.Text {
			return a.apply(cmd.Context(), []authrpc.Resource{resource})
		}
		token := createdToken{Kind: identity.Kind(f.kind), Uses: f.uses, TTL: access.Duration(f.ttl)}
		return a.createToken(cmd.Context(), resource, token, *format)
	}
	flags := create.Flags()
	flags.StringVar(&f.kind, "kind", string(identity.Node), "`KIND` of machine: node or proxy")
	flags.IntVar(&f.uses, "uses", 1, "how many machines may join, up to 100")
	flags.DurationVar(&f.ttl, "ttl", defaultTokenTTL,
		"how long the token is valid, as 90s or 15m; at most 30m")
	flags.StringVar(&f.namePattern, "name-pattern", "",
		"`NAME` that the machine gets, or a pattern with * and ? for the name that it asks for")
	flags.StringArrayVar(&f.labels, "label", nil, "label of the machine, as `KEY=VALUE`; may be repeated")
	flags.StringArrayVar(&f.publicNames, "public-name", nil,
		"public host `NAME` or address that a proxy may have; may be repeated (default the cluster's name)")
	kinds := cobra.FixedCompletions([]string{"node", "proxy"}, cobra.ShellCompDirectiveNoFileComp)
	_ = create.RegisterFlagCompletionFunc("kind", kinds) // the flag exists
	cmd.AddCommand(create)
	return cmd
}

// createdToken is a new token in JSON or YAML.
type createdToken struct {
	Name  string          `json:"name"`
	Kind  identity.Kind   `json:"kind"`
	Uses  int             `json:"uses"`
	TTL   access.Duration `json:"ttl"`
	Token string          `json:"token"` // secret; shown only here
}

// createToken sends resource to the auth service, which creates the token, and writes the token to standard
// output as JSON or YAML. token has its kind and lifetime; createToken adds the name and the secret.
func (a *app) createToken(
	ctx context.Context,
	resource authrpc.Resource,
	token createdToken,
	format output.Format,
) error {
	prof, err := a.currentLogin()
	if err != nil {
		return err
	}
	client := a.auth(prof)
	defer client.Close()
	req := authrpc.ApplyResourceRequest{Resource: resource}
	resp, err := authrpc.Call(ctx, client, authrpc.ApplyResource, req)
	if err != nil {
		return err
	}
	token.Name, token.Token = resp.Resource.Metadata.Name, resp.Secret
	return a.write(format, token, nil /* text is never asked for */)
}

// newToken returns the resource of a token with the flags. It has no name: the auth service generates one.
// newToken returns an Invalid fault for another kind than node or proxy, a lifetime out of range and labels
// that are not valid. The auth service checks the rest.
func newToken(f tokenFlags) (authrpc.Resource, error) {
	if f.kind != string(identity.Node) && f.kind != string(identity.Proxy) {
		return authrpc.Resource{}, tokenKindUnknown.New("", fault.Args{"kind": f.kind})
	}
	if f.ttl < minTokenTTL || f.ttl > maxTokenTTL {
		return authrpc.Resource{}, tokenTTLOutOfRange.New("", fault.Args{
			"ttl":   f.ttl,
			"least": minTokenTTL,
			"most":  maxTokenTTL,
		})
	}
	spec := tokenSpec{
		Kind:        identity.Kind(f.kind),
		TTL:         access.Duration(f.ttl),
		NamePattern: f.namePattern,
		PublicNames: f.publicNames,
	}
	if f.uses != 1 { // one is what a spec without uses means
		spec.Uses = f.uses
	}
	if len(f.labels) > 0 {
		parsed, err := parseLabels(f.labels)
		if err == nil {
			err = identity.Labels(parsed).CheckGiven()
		}
		if err != nil {
			return authrpc.Resource{}, tokenLabelInvalid.Wrap(err, "", fault.Args{"why": err.Error()})
		}
		spec.Labels = parsed
	}
	encoded, err := json.Marshal(spec)
	return authrpc.Resource{Kind: "token", Version: "v1", Spec: encoded}, err
}

// showToken prints a join token, which cannot be shown again, with the commands to type on the new machine.
// There the token goes into a file and not into an argument, because other users can see arguments in the
// list of processes.
func (a *app) showToken(proxy, secret string) {
	fmt.Fprintf(a.Stdout, "token: %s\n", terminal.Clean(secret))
	const save = "\nNext, on the new machine, as root:\n" +
		"  install -m 0600 /dev/stdin token        # paste the token, then press Enter and Ctrl-D\n"
	if t, err := authrpc.ParseToken(secret); err == nil && t.Kind == identity.Proxy {
		const start = "  threshold start --config threshold.yaml  # with token_file in its proxy section\n"
		fmt.Fprint(a.Stderr, save+start)
		return
	}
	const start = "  threshold-node --proxy %s --data /var/lib/threshold-node --token-file token\n"
	fmt.Fprintf(a.Stderr, save+start, proxy)
}
