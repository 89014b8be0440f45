package tsh

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
)

// maxApplyBytes bounds what apply reads.
const maxApplyBytes = config.MaxBytes

func (a *app) getCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "get KIND [NAME]",
		Short:   "Show roles, connectors, users, tokens, machines or events",
		GroupID: admin,
		Example: `  tsh get roles
  tsh get role ops --format=yaml > ops.yaml     # edit, then: tsh apply -f ops.yaml`,
		Args:              needs(1, 2, "a kind, and may have a name: "+join(access.Resources)),
		ValidArgsFunction: completeKind,
	}
	f := formatFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		kind, name, err := parseResource(args)
		if err != nil {
			return err
		}
		list, err := a.fetchResources(c.Context(), kind, name)
		if err != nil {
			return err
		}
		return a.showResources(*f, kind, name, list)
	}
	return c
}

// parseResource reads "role ops", "roles/ops" and "roles".
func parseResource(args []string) (access.Resource, string, error) {
	word, name, slashed := strings.Cut(args[0], "/")
	if len(args) == 2 {
		if slashed {
			return "", "", fault.New(
				fault.Invalid,
				"",
				fmt.Sprintf("%q and %q both name something", args[0], args[1]),
				"write KIND NAME or KIND/NAME",
			)
		}
		name = args[1]
	} else if slashed && name == "" {
		return "", "", fault.New(fault.Invalid, "", fmt.Sprintf("%q names nothing", args[0]), "write KIND/NAME")
	}
	kind, err := resourceKind(word)
	return kind, name, err
}

func resourceKind(word string) (access.Resource, error) {
	for _, r := range access.Resources {
		if plural := string(r); strings.EqualFold(word, plural) || strings.EqualFold(word, singular(r)) {
			return r, nil
		}
	}
	return "", fault.New(
		fault.Invalid,
		"",
		fmt.Sprintf("%q is no kind of resource", word),
		"known kinds: "+join(access.Resources),
	)
}

func singular(r access.Resource) string { return strings.TrimSuffix(string(r), "s") }

func (a *app) fetchResources(
	ctx context.Context,
	kind access.Resource,
	name string,
) ([]authrpc.Resource, error) {
	p, err := a.currentLogin()
	if err != nil {
		return nil, err
	}
	c := a.auth(p)
	defer c.Close()
	all := []authrpc.Resource{}
	for after := ""; ; {
		page, err := authrpc.Call(
			ctx,
			c,
			authrpc.GetResources,
			authrpc.GetResourcesRequest{Kind: kind, Name: name, After: after},
		)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Resources...)
		if page.Next == "" || page.Next == after { // the same mark again would never end
			return all, nil
		}
		after = page.Next
	}
}

func (a *app) showResources(f format, kind access.Resource, name string, list []authrpc.Resource) error {
	if name != "" && len(list) == 0 {
		return fault.New(
			fault.NotFound,
			"",
			fmt.Sprintf("there is no %s %s", singular(kind), name),
			"see: tsh get "+string(kind),
		)
	}
	switch {
	case f == asJSON && name != "":
		return a.write(f, list[0], nil)
	case f == asJSON:
		return a.write(f, list, nil)
	case f == asYAML || name != "":
		return a.writeDocuments(list)
	}
	return a.write(f, list, func(w io.Writer) error {
		if len(list) == 0 {
			_, err := fmt.Fprintf(a.Stderr, "There are no %s.\n", kind)
			return err
		}
		return writeListing(w, kind, list)
	})
}

// writeDocuments writes what apply reads again.
func (a *app) writeDocuments(list []authrpc.Resource) error {
	docs := make([]any, 0, len(list))
	for _, r := range list {
		docs = append(docs, r)
	}
	err := writeYAML(a.Stdout, docs...)
	return fault.Wrap(
		err,
		fault.Internal,
		"",
		"the answer cannot be written",
		"look at where standard output leads",
	)
}

func (a *app) applyCmd() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:     "apply -f FILE",
		Short:   "Create or change the resources in a file",
		Long:    "Create or change the resources in a YAML file of one or more documents. The whole file is checked before anything is sent.",
		GroupID: admin,
		Example: `  tsh apply -f role.yaml
  tsh get role ops --format=yaml | sed s/staging/prod/ | tsh apply -f -`,
		Args: noArgs("name the file with a flag: tsh apply -f %s"),
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				return fault.New(
					fault.Invalid,
					"",
					"there is no file to apply",
					"run: tsh apply -f FILE, or -f - for standard input",
				)
			}
			list, err := a.readResources(file)
			if err != nil {
				return err
			}
			return a.apply(c.Context(), list)
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "`FILE` to read, or - for standard input")
	return c
}

func (a *app) readResources(file string) ([]authrpc.Resource, error) {
	name, in := file, a.Stdin
	if file == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(file)
		if err != nil {
			return nil, fault.Wrap(err, fault.Invalid, "", err.Error(), "check the path")
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxApplyBytes+1))
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "", name+" cannot be read: "+err.Error(), "check the path")
	}
	return decodeResources(name, b)
}

// decodeResources checks what can be checked here, all faults at once: the syntax of every document, and what
// a role means.
func decodeResources(name string, b []byte) ([]authrpc.Resource, error) {
	docs, err := config.DecodeAll(name, b)
	faults := []error{err}
	var list []authrpc.Resource
	for _, doc := range docs {
		r, err := decodeResource(doc)
		faults = append(faults, err)
		list = append(list, r)
	}
	return list, config.Join(faults...)
}

func decodeResource(doc config.Document) (authrpc.Resource, error) {
	kind, err := resourceKind(doc.Kind)
	if err != nil {
		return authrpc.Resource{}, config.Faults{
			doc.Fault("kind %s is not known; known: %s", doc.Kind, join(access.Resources)),
		}
	}
	r := authrpc.Resource{Kind: singular(kind), Version: doc.Version,
		Metadata: authrpc.Metadata{
			Name:     doc.Metadata.Name,
			Labels:   doc.Metadata.Labels,
			Revision: doc.Metadata.Revision,
		}}
	if kind == access.Roles {
		var role access.Role
		if err := doc.Spec(&role); err != nil {
			return r, err
		}
	}
	r.Spec, err = doc.SpecJSON()
	return r, err
}

func (a *app) apply(ctx context.Context, list []authrpc.Resource) error {
	p, err := a.currentLogin()
	if err != nil {
		return err
	}
	c := a.auth(p)
	defer c.Close()
	for i, r := range list {
		got, err := authrpc.Call(ctx, c, authrpc.ApplyResource, authrpc.ApplyResourceRequest{Resource: r})
		if err != nil {
			if i > 0 {
				fmt.Fprintf(
					a.Stderr,
					"Stopped at %s %s; the %d before it are applied.\n",
					r.Kind,
					clean(r.Metadata.Name),
					i,
				)
			}
			return err
		}
		a.reportApplied(p.Proxy, r, got)
	}
	return nil
}

func (a *app) reportApplied(proxy string, sent authrpc.Resource, got authrpc.ApplyResourceResponse) {
	word := "changed"
	if got.Created {
		word = "created"
	}
	name := got.Resource.Metadata.Name
	if name == "" {
		name = sent.Metadata.Name
	}
	fmt.Fprintf(a.Stdout, "%s %s %s\n", sent.Kind, clean(name), word)
	if got.Note != "" {
		fmt.Fprintln(a.Stderr, clean(got.Note))
	}
	if got.Secret != "" {
		a.showToken(proxy, got.Secret)
	}
}

func (a *app) rmCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "rm KIND NAME",
		Short:             "Remove a role, connector, user, token or node",
		GroupID:           admin,
		Example:           "  tsh rm role ops\n  tsh rm token/3f2a…",
		Args:              needs(1, 2, "a kind and a name"),
		ValidArgsFunction: completeKind,
		RunE: func(c *cobra.Command, args []string) error {
			kind, name, err := parseResource(args)
			if err != nil {
				return err
			}
			if name == "" {
				return fault.New(
					fault.Invalid,
					"",
					"rm needs the name of one "+singular(kind),
					"see: tsh get "+string(kind),
				)
			}
			p, err := a.currentLogin()
			if err != nil {
				return err
			}
			api := a.auth(p)
			defer api.Close()
			if _, err := authrpc.Call(c.Context(), api, authrpc.RemoveResource, authrpc.RemoveResourceRequest{Kind: kind, Name: name}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.Stdout, "%s %s removed\n", singular(kind), clean(name))
			return err
		},
	}
}
