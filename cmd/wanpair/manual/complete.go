package manual

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Bash is the completion for bash.
func Bash(app *kong.Application) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# Completion of wanpair for bash, made from the command line by go generate ./cmd/wanpair. Do not edit.")
	p("_wanpair() {")
	p("    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= words= files= i")
	p("    for ((i = 1; i < COMP_CWORD; i++)); do")
	p("        case \"$command ${COMP_WORDS[i]}\" in")
	for _, n := range commands(app.Node) {
		parent := path(n.Parent)
		p("        %s) command=%s ;;", quote(parent+" "+n.Name), quote(path(n)))
	}
	p("        esac")
	p("    done")
	p("    case $prev in")
	paths, others := valued(app)
	if len(paths) > 0 {
		p("    %s) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;", strings.Join(paths, "|"))
	}
	if len(others) > 0 {
		p("    %s) COMPREPLY=(); return ;;", strings.Join(others, "|"))
	}
	p("    esac")
	p("    case $command in")
	p("    '') words=%s ;;", quote(strings.Join(childNames(app.Node), " ")+" --help"))
	for _, n := range commands(app.Node) {
		words := append(childNames(n), flagWords(n)...)
		takesFiles := ""
		if len(n.Positional) > 0 {
			takesFiles = " files=1"
		}
		p("    %s) words=%s%s ;;", quote(path(n)), quote(strings.Join(words, " ")), takesFiles)
	}
	p("    esac")
	p("    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))")
	p("    if [[ $files && $cur != -* ]]; then")
	p("        COMPREPLY=($(compgen -f -- \"$cur\"))")
	p("    fi")
	p("}")
	p("complete -o filenames -F _wanpair wanpair")
	return b.String()
}

// Zsh is the completion for zsh.
func Zsh(app *kong.Application) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("#compdef wanpair")
	p("# Completion of wanpair for zsh, made from the command line by go generate ./cmd/wanpair. Do not edit.")
	groups := append([]*kong.Node{app.Node}, commands(app.Node)...)
	for _, n := range groups {
		p("")
		p("%s() {", function(n))
		if len(n.Children) == 0 {
			p("    _arguments -s \\")
			for _, f := range flags(n) {
				for _, spec := range zshSpecs(f) {
					p("        %s \\", quote(spec))
				}
			}
			if len(n.Positional) > 0 {
				p("        '*:file:_files'")
			} else {
				p("        ':'")
			}
			p("}")
			continue
		}
		p("    local -a names=(")
		for _, c := range n.Children {
			if !c.Hidden {
				p("        %s", quote(c.Name+":"+strings.ReplaceAll(c.Help, ":", "\\:")))
			}
		}
		p("    )")
		p("    if (( CURRENT == 2 )); then")
		p("        _describe command names")
		p("        return")
		p("    fi")
		p("    local name=$words[2]")
		p("    shift words; (( CURRENT-- ))")
		p("    case $name in")
		for _, c := range n.Children {
			if !c.Hidden {
				p("    %s) %s ;;", c.Name, function(c))
			}
		}
		p("    esac")
		p("}")
	}
	p("")
	p("_wanpair \"$@\"")
	return b.String()
}

func function(n *kong.Node) string {
	return strings.ReplaceAll(strings.TrimSpace("_wanpair "+path(n)), " ", "_")
}

func zshSpecs(f *kong.Flag) []string {
	text := strings.NewReplacer("[", "(", "]", ")", ":", "\\:").Replace(f.Help)
	action := ""
	if v := value(f); v != "" {
		action = ":" + v + ":"
		if isPath(f) {
			action += "_files"
		}
	}
	specs := []string{fmt.Sprintf("--%s[%s]%s", f.Name, text, action)}
	if f.Short != 0 {
		specs = append(specs, fmt.Sprintf("-%c[%s]%s", f.Short, text, action))
	}
	return specs
}

// Fish is the completion for fish.
func Fish(app *kong.Application) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# Completion of wanpair for fish, made from the command line by go generate ./cmd/wanpair. Do not edit.")
	p("complete -c wanpair -f")
	for _, n := range commands(app.Node) {
		where := "__fish_use_subcommand"
		if parent := path(n.Parent); parent != "" {
			where = fmt.Sprintf("__fish_seen_subcommand_from %s; and not __fish_seen_subcommand_from %s", parent, strings.Join(childNames(n.Parent), " "))
		}
		p("complete -c wanpair -n %s -a %s -d %s", quote(where), n.Name, quote(n.Help))
		if len(n.Children) > 0 {
			continue
		}
		var seen []string
		for _, word := range strings.Fields(path(n)) {
			seen = append(seen, "__fish_seen_subcommand_from "+word)
		}
		where = strings.Join(seen, "; and ")
		if len(n.Positional) > 0 {
			p("complete -c wanpair -n %s -F", quote(where))
		}
		for _, f := range flags(n) {
			line := fmt.Sprintf("complete -c wanpair -n %s -l %s", quote(where), f.Name)
			if f.Short != 0 {
				line += " -s " + string(f.Short)
			}
			switch {
			case isPath(f):
				line += " -r -F"
			case value(f) != "":
				line += " -x"
			}
			p("%s -d %s", line, quote(f.Help))
		}
	}
	return b.String()
}

// commands are all commands that are not hidden, groups before their members.
func commands(n *kong.Node) (out []*kong.Node) {
	for _, c := range n.Children {
		if !c.Hidden {
			out = append(append(out, c), commands(c)...)
		}
	}
	return out
}

func childNames(n *kong.Node) (out []string) {
	for _, c := range n.Children {
		if !c.Hidden {
			out = append(out, c.Name)
		}
	}
	return out
}

func flagWords(n *kong.Node) (out []string) {
	for _, f := range flags(n) {
		out = append(out, "--"+f.Name)
		if f.Short != 0 {
			out = append(out, "-"+string(f.Short))
		}
	}
	return out
}

// valued are the flags, of all commands, that take a file and those that take something else. A flag means the same wherever it stands.
func valued(app *kong.Application) (paths, others []string) {
	for _, n := range leaves(app.Node) {
		for _, f := range flags(n) {
			if value(f) == "" {
				continue
			}
			list := &others
			if isPath(f) {
				list = &paths
			}
			*list = append(*list, "--"+f.Name)
			if f.Short != 0 {
				*list = append(*list, "-"+string(f.Short))
			}
		}
	}
	slices.Sort(paths)
	slices.Sort(others)
	return slices.Compact(paths), slices.Compact(others)
}

func isPath(f *kong.Flag) bool {
	return f.Tag != nil && slices.Contains([]string{"path", "existingfile", "existingdir", "filecontent"}, f.Tag.Type)
}

// quote makes one word of s for all three shells.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\\''`) + "'" }
