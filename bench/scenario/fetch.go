package scenario

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"wanpair/bench/corpus"
	"wanpair/bench/server"
)

func fileScenarios() []*Scenario {
	return []*Scenario{
		{
			Name: "npm", Title: "Software distribution: package versions", Phases: []string{cold, "minor", "patch"}, Sets: []string{"npm"}, Tools: []string{"nginx", "curl"},
			Text:    "Three versions of an npm package (TypeScript 5.4.5, 5.5.2, 5.5.3, as tar) one after the other over HTTP.",
			Prepare: prepareNPM,
		},
		{
			Name: "media", Title: "Media: pictures nobody saw before", Phases: []string{cold, again}, Sets: []string{"images"}, Tools: []string{"nginx", "curl"},
			Text:    "A tar of JPEG and PNG files over HTTP, then again. At first sight nothing can be saved, and nothing may be lost.",
			Prepare: prepareMedia,
		},
		{
			Name: "pictures", Title: "Media: moving a user's pictures", Phases: []string{cold, "second site"}, Sets: []string{"images"}, Tools: []string{"rsync", "dwebp"},
			Text:    "11,500 pictures, fewer where the link does not carry them in time, by rsync, then to a second machine of the same site. They are JPEG tiles cut from the large originals of Debian's gnome-backgrounds, as a viewer that zooms keeps them.",
			Prepare: preparePictures,
		},
	}
}

func cipherScenarios() []*Scenario {
	const text = " What the application encrypts can be neither matched nor compressed: it must cost nothing."
	return []*Scenario{
		{
			Name: "cipher-tls", Title: "Ciphertext: HTTPS", Phases: []string{cold, again}, Sets: []string{"source"}, Tools: []string{"nginx", "curl"},
			Text: "A tar of sources over TLS, twice." + text, Prepare: prepareTLS,
		},
		{
			Name: "cipher-ssh", Title: "Ciphertext: ssh", Phases: []string{cold, again}, Sets: []string{"source"}, Tools: []string{"sshd", "ssh", "ssh-keygen"}, Root: true,
			Text: "A tar of sources by ssh, twice." + text, Prepare: prepareSSH(false),
		},
		{
			Name: "cipher-scp", Title: "Ciphertext: scp", Phases: []string{cold, again}, Sets: []string{"source"}, Tools: []string{"sshd", "scp", "ssh-keygen"}, Root: true,
			Text: "A tar of sources by scp, twice." + text, Prepare: prepareSSH(true),
		},
	}
}

// served are files below one directory with the phases that fetch them.
type served struct {
	root  string
	files map[string]string
	hash  map[string]string
}

// cutFiles cuts each phase's source to the bytes asked for.
func cutFiles(kit Kit, phases []string, sources map[string]string) (served, error) {
	s := served{root: filepath.Join(kit.Dir, "www"), files: map[string]string{}, hash: map[string]string{}}
	if err := os.Mkdir(s.root, 0o755); err != nil {
		return s, err
	}
	done := map[string]string{} // source to phase
	for _, phase := range phases {
		if first, ok := done[sources[phase]]; ok {
			s.files[phase], s.hash[phase] = s.files[first], s.hash[first]
			continue
		}
		done[sources[phase]] = phase
		s.files[phase] = "file-" + phase
		hash, err := cut(filepath.Join(kit.Corpus, sources[phase]), filepath.Join(s.root, s.files[phase]), kit.Bytes)
		if err != nil {
			return s, err
		}
		s.hash[phase] = hash
	}
	return s, nil
}

// overHTTP makes material of which nginx serves each phase's file.
func (s served) overHTTP(ctx context.Context, phases []string, url func(n *server.Nginx, name string) string, http2 bool) (Material, error) {
	best, err := idealPhases(ctx, phases, inside(s.root, s.files))
	return Material{Ideal: best, Open: func(ctx context.Context, stage Stage) (Play, error) {
		n, err := server.StartNginx(ctx, stage.Server, filepath.Join(stage.Dir, "nginx"), s.root)
		if err != nil {
			return nil, err
		}
		return &fetchPlay{
			files: s.files, hash: s.hash, stop: []func() error{n.Stop},
			fetch: func(ctx context.Context, name string) (server.Output, error) {
				return server.Fetch(ctx, stage.Client, url(n, name), http2)
			},
		}, nil
	}}, err
}

func prepareNPM(ctx context.Context, kit Kit) (Material, error) {
	phases := []string{cold, "minor", "patch"}
	s, err := cutFiles(kit, phases, map[string]string{cold: "npm/5.4.5.tar", "minor": "npm/5.5.2.tar", "patch": "npm/5.5.3.tar"})
	if err != nil {
		return Material{}, err
	}
	return s.overHTTP(ctx, phases, (*server.Nginx).URL, false)
}

func prepareMedia(ctx context.Context, kit Kit) (Material, error) {
	phases := []string{cold, again}
	s, err := cutFiles(kit, phases, map[string]string{cold: "images/images.tar", again: "images/images.tar"})
	if err != nil {
		return Material{}, err
	}
	return s.overHTTP(ctx, phases, (*server.Nginx).URL, false)
}

// sourceTar cuts the same file for both phases of ciphertext.
func sourceTar(kit Kit) (served, error) {
	const file = "source/v1.33.0.tar"
	return cutFiles(kit, []string{cold, again}, map[string]string{cold: file, again: file})
}

func prepareTLS(ctx context.Context, kit Kit) (Material, error) {
	s, err := sourceTar(kit)
	if err != nil {
		return Material{}, err
	}
	m, err := s.overHTTP(ctx, []string{cold, again}, (*server.Nginx).URLTLS, false)
	m.Ideal = nil // no delta coder sees anything here
	return m, err
}

func prepareSSH(scp bool) func(context.Context, Kit) (Material, error) {
	return func(_ context.Context, kit Kit) (Material, error) {
		s, err := sourceTar(kit)
		return Material{Open: func(ctx context.Context, stage Stage) (Play, error) {
			d, err := server.StartSSH(ctx, stage.Server, filepath.Join(stage.Dir, "ssh"))
			if err != nil {
				return nil, err
			}
			return &fetchPlay{
				files: s.files, hash: s.hash, stop: []func() error{d.Stop},
				fetch: func(ctx context.Context, name string) (server.Output, error) {
					if !scp {
						return d.Cat(ctx, stage.Client, filepath.Join(s.root, name), false)
					}
					into := filepath.Join(stage.Dir, "copied")
					if err := d.Copy(ctx, stage.Client, filepath.Join(s.root, name), into); err != nil {
						return server.Output{}, err
					}
					hash, n, err := corpus.HashFile(into)
					return server.Output{Bytes: n, SHA256: hash}, err
				},
			}, nil
		}}, err
	}
}

// pageOf copies, as page.html, the first file of a tree whose size is near to what a small page has.
func pageOf(tree, to string) (int64, error) {
	const least, most = 6 << 10, 10 << 10
	var chosen string
	err := filepath.WalkDir(tree, func(p string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || chosen != "" {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Size() >= least && info.Size() <= most {
			chosen = p
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	in, err := os.Open(chosen)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, in)
	if err != nil {
		out.Close()
		return n, err
	}
	return n, out.Close()
}
