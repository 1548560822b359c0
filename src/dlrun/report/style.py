"""How the HTML report looks: on a wide screen, on a phone, and on paper."""

STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 52rem; margin: 1.5rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin: 0 0 .4rem } h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem }
h1, h2, h3, p, li, td, th { overflow-wrap: anywhere }
nav { font-size: .85rem; line-height: 1.9; border-bottom: 1px solid #ddd; padding-bottom: .5rem }
a { color: #00588a }
p { margin: .4rem 0 } ul { margin: .3rem 0; padding-left: 1.3rem }
.small, figcaption { color: #595959; font-size: .85rem }
.strong { font-weight: 600 }
.loud { color: #b00020; font-weight: 700; border-left: .3rem solid #b00020; padding-left: .6rem }
.scroll { overflow-x: auto; width: min-content; min-width: 100%; max-width: calc(100vw - 3rem);
  position: relative; left: 50%; transform: translateX(-50%) }
table { border-collapse: collapse; margin: .6rem 0; font-size: .9rem }
.caption { font-weight: 600; font-size: .9rem; margin-top: 1rem } .caption + .scroll table { margin-top: 0 }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top;
  overflow-wrap: normal }
th { font-weight: 600 } .pairs th { font-weight: 400; color: #595959 }
.pairs th { white-space: nowrap } .pairs td { overflow-wrap: anywhere; min-width: 11rem }
td:first-child { white-space: nowrap }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.wide .number { white-space: normal }
.won td { font-weight: 700; background: #fdf0e6 }
figure { margin: .8rem 0 1.2rem } img { max-width: 100%; height: auto }
figure img { width: min(100%, 40rem); border: 1px solid #eee }
code, pre { font-family: ui-monospace, monospace; font-size: .85rem }
pre { background: #f5f5f5; padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere }
summary { cursor: pointer }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: .8rem }
.mistake { border: 1px solid #ddd; padding: .5rem .7rem; min-width: 0; font-size: .9rem }
.mistake img { image-rendering: pixelated; max-height: 12rem }
.mistake b, .cells i { font-weight: 400; font-style: normal; color: #595959 }
.cells { font-size: .85rem } .cells span { display: inline-block; margin-right: .8rem }
blockquote { margin: .4rem 0; padding-left: .6rem; border-left: .2rem solid #ddd; max-height: 16rem;
  overflow-y: auto; overflow-wrap: anywhere }
@media screen and (max-width: 60rem) {
  td:first-child, .number, .pairs th { white-space: normal } td { overflow-wrap: anywhere }
}
@media screen and (max-width: 40rem) {
  .scroll { width: auto; max-width: 100%; position: static; transform: none }
  .pairs th { overflow-wrap: anywhere; min-width: 6rem }
  .wide thead { display: none } .wide, .wide tbody, .wide tr { display: block }
  .wide tr { border-bottom: 1px solid #ddd; padding: .4rem 0 }
  .wide td { display: grid; grid-template-columns: 2fr 3fr; gap: .6rem; border: 0; padding: 0; text-align: left }
  .wide td::before { content: attr(data-column); color: #595959 }
  .wide td:first-child { display: block; font-weight: 600 }
  .wide td:first-child::before, .wide td:empty { display: none }
}
@page { margin: 15mm }
@media print {
  body { font-size: 10pt; max-width: none; margin: 0; padding: 0 }
  nav { display: none }
  h2, h3, .caption { break-after: avoid }
  figure, img, tr, .mistake, .loud { break-inside: avoid }
  figure img { width: auto; max-width: 130mm; max-height: 220mm }
  .scroll, pre, blockquote { overflow: visible; max-height: none }
  .scroll { width: auto; max-width: 100%; position: static; transform: none }
  pre { white-space: pre-wrap; overflow-wrap: anywhere }
  table, .caption { font-size: 8pt } td:first-child, .number, .pairs th { white-space: normal }
  .gallery { grid-template-columns: repeat(3, 1fr); gap: 2mm } .mistake { font-size: 8pt; padding: 1.5mm }
  .cells, .small { font-size: 7.5pt }
}
"""
